"""The models of `model_sweep`: drawn evenly over the families of timm and torchvision, the large ones left out.

    python -m benchmarks.sweep.models     # draws them again, in some minutes, and prints them

Of each of timm's files the smallest model; of files with many, the smallest for each first word of a name as well; all
of torchvision's classifiers; and a network with two heads, which such a choice leaves out. Sizes are numbers of
parameters.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

import torch

from benchmarks.common.program import make_parser
from pipeline.models import torchvision_operators

MANY = 20  # models of one file of timm
MAX_PARAMETERS = 100e6
MAX_FURTHER_PARAMETERS = 60e6  # of a second model of a file, and of torchvision's


LEFT_OUT = ("test_*", "halonet_h1")  # made for tests; takes seconds for one image at its only size
FURTHER = ("timm:deit_tiny_distilled_patch16_224",)


def draw() -> Iterator[str]:
    """The names, in order."""
    torchvision_operators.declare()
    import timm
    import torchvision
    from timm.models._registry import _model_to_module

    files: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in timm.list_models(exclude_filters=list(LEFT_OUT)):
        with torch.device("meta"):
            files[_model_to_module[name]].append((_num_parameters(timm.create_model(name)), name))
    for file in sorted(files):
        members = sorted(files[file])
        smallest: dict[str, tuple[int, str]] = {}
        for size, name in members:
            smallest.setdefault(re.match("[a-z]+", name)[0], (size, name))  # type: ignore[index]
        (first_size, first), *further = smallest.values()
        if first_size <= MAX_PARAMETERS:
            yield f"timm:{first}"
        if len(members) >= MANY:
            yield from (f"timm:{name}" for size, name in further if size <= MAX_FURTHER_PARAMETERS)
    for name in torchvision.models.list_models(module=torchvision.models):
        if next(iter(torchvision.models.get_model_weights(name))).meta["num_params"] <= MAX_FURTHER_PARAMETERS:
            yield f"torchvision:{name}"
    yield from FURTHER


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# fmt: off
MODELS = (
    "timm:beit_base_patch16_224", "timm:eca_botnext26ts_256", "timm:mobileone_s1", "timm:gernet_s", "timm:repvgg_a0",
    "timm:regnetz_b16", "timm:resnext26ts", "timm:eca_resnext26ts", "timm:seresnext26ts", "timm:gcresnext26ts",
    "timm:bat_resnext26ts", "timm:resnet32ts", "timm:seresnet33ts", "timm:gcresnet33ts", "timm:cait_xxs24_224",
    "timm:coat_tiny", "timm:convit_tiny", "timm:convmixer_768_32", "timm:convnext_zepto_rms", "timm:convnextv2_atto",
    "timm:cpubone_nano", "timm:crossvit_tiny_240", "timm:csatv2", "timm:cs3darknet_focus_s", "timm:darknet17",
    "timm:cspresnext50", "timm:sedarknet21", "timm:cspresnet50", "timm:cspdarknet53", "timm:darknetaa53",
    "timm:cspnext_tiny", "timm:davit_tiny", "timm:deit_tiny_patch16_224", "timm:densenet121", "timm:dla46x_c",
    "timm:dpn48b", "timm:edgenext_xx_small", "timm:efficientformer_l1", "timm:efficientformerv2_s0",
    "timm:mobilenetv2_035", "timm:mnasnet_small", "timm:tinynet_e", "timm:semnasnet_050",
    "timm:mobilenet_edgetpu_100", "timm:mixnet_s", "timm:tf_mixnet_s", "timm:spnasnet_100", "timm:efficientnet_lite0",
    "timm:fbnetc_100", "timm:efficientnetv2_rw_t", "timm:gc_efficientnetv2_rw_t", "timm:efficientvim_m1",
    "timm:efficientvit_b0", "timm:efficientvit_m0", "timm:vit_tiny_patch16_dinov3_qkvb",
    "timm:eva02_tiny_patch14_224", "timm:fasternet_t0", "timm:fastvit_t8", "timm:focalnet_tiny_srf",
    "timm:gcvit_xxtiny", "timm:ghostnet_050", "timm:hardcorenas_b", "timm:hgnetv2_b0", "timm:hiera_tiny_224",
    "timm:sam2_hiera_tiny", "timm:hrnet_w18_small", "timm:iformer_t", "timm:inception_next_atto",
    "timm:inception_resnet_v2", "timm:inception_v3", "timm:inception_v4", "timm:lcnetv2_small", "timm:levit_128s",
    "timm:lowformer_b0", "timm:mambaout_femto", "timm:maxvit_pico_rw_256", "timm:coatnet_pico_rw_224",
    "timm:coatnext_nano_rw_224", "timm:maxxvit_rmlp_nano_rw_256", "timm:maxxvitv2_nano_rw_256",
    "timm:poolformerv2_s12", "timm:gmlp_ti16_224", "timm:mobilenetv3_small_050", "timm:lcnet_035",
    "timm:tf_mobilenetv3_small_075", "timm:fbnetv3_b", "timm:mobilenetv5_base", "timm:mobilevit_xxs",
    "timm:mvitv2_tiny", "timm:naflexvit_base_patch16_parfac_gap", "timm:nasnetalarge", "timm:nest_tiny",
    "timm:nextvit_small", "timm:nf_regnet_b0", "timm:eca_nfnet_l0", "timm:nfnet_l0", "timm:pit_ti_224",
    "timm:pnasnet5large", "timm:pvt_v2_b0", "timm:qwen3_vit_88m", "timm:rdnet_tiny", "timm:regnetx_002",
    "timm:regnety_002", "timm:regnetz_005", "timm:regnetv_040", "timm:repghostnet_050", "timm:repvit_m1",
    "timm:res2next50", "timm:resnest14d", "timm:resnet10t", "timm:resnetblur18", "timm:seresnet18",
    "timm:ecaresnext26t_32x4d", "timm:ecaresnet26t", "timm:seresnext26t_32x4d", "timm:resnetaa34d",
    "timm:resnext50_32x4d", "timm:seresnetaa50d", "timm:ecaresnetlight", "timm:resnetrs50", "timm:resnetv2_18",
    "timm:rexnet_100", "timm:selecsls42", "timm:legacy_seresnet18", "timm:sequencer2d_s", "timm:shvit_s1",
    "timm:skresnet18", "timm:starnet_s050", "timm:swiftformer_xs", "timm:swin_tiny_patch4_window7_224",
    "timm:swinv2_tiny_window16_256", "timm:swinv2_cr_tiny_224", "timm:tiny_vit_5m_224",
    "timm:tnt_s_legacy_patch16_224", "timm:tresnet_m", "timm:twins_svt_small", "timm:visformer_tiny",
    "timm:vit_tiny_patch16_224", "timm:flexivit_small", "timm:vit_tiny_r_s16_p8_224",
    "timm:vit_srelpos_small_patch16_224", "timm:samvit_base_patch16_224", "timm:vitamin_small_224",
    "timm:volo_d1_224", "timm:ese_vovnet19b_slim_dw", "timm:legacy_xception", "timm:xception41p",
    "timm:xcit_nano_12_p8_224", "torchvision:convnext_small", "torchvision:convnext_tiny", "torchvision:densenet121",
    "torchvision:densenet161", "torchvision:densenet169", "torchvision:densenet201", "torchvision:efficientnet_b0",
    "torchvision:efficientnet_b1", "torchvision:efficientnet_b2", "torchvision:efficientnet_b3",
    "torchvision:efficientnet_b4", "torchvision:efficientnet_b5", "torchvision:efficientnet_b6",
    "torchvision:efficientnet_v2_m", "torchvision:efficientnet_v2_s", "torchvision:googlenet",
    "torchvision:inception_v3", "torchvision:maxvit_t", "torchvision:mnasnet0_5", "torchvision:mnasnet0_75",
    "torchvision:mnasnet1_0", "torchvision:mnasnet1_3", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_large",
    "torchvision:mobilenet_v3_small", "torchvision:regnet_x_16gf", "torchvision:regnet_x_1_6gf",
    "torchvision:regnet_x_3_2gf", "torchvision:regnet_x_400mf", "torchvision:regnet_x_800mf",
    "torchvision:regnet_x_8gf", "torchvision:regnet_y_1_6gf", "torchvision:regnet_y_3_2gf",
    "torchvision:regnet_y_400mf", "torchvision:regnet_y_800mf", "torchvision:regnet_y_8gf", "torchvision:resnet101",
    "torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50", "torchvision:resnext50_32x4d",
    "torchvision:shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x1_0", "torchvision:shufflenet_v2_x1_5",
    "torchvision:shufflenet_v2_x2_0", "torchvision:squeezenet1_0", "torchvision:squeezenet1_1", "torchvision:swin_s",
    "torchvision:swin_t", "torchvision:swin_v2_s", "torchvision:swin_v2_t",
    "timm:deit_tiny_distilled_patch16_224",
)
# fmt: on


if __name__ == "__main__":
    make_parser(__doc__).parse_args()
    print(*draw(), sep="\n")
