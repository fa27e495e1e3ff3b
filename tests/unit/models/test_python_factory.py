"""Networks of a user's own function: taken as they are, out of their wrappers, or refused in one sentence."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models import load_model
from tests.support.odd_networks import CastsItself, OddNet

HERE = "python:tests.support.odd_networks:"

REFUSED = {
    "traced": "scripted or traced",
    "with_traced_part": 'the part "fc" is scripted or traced',
    "quantized": 'layer "fc" (Linear) is quantized',
    "int8_weight": '"fc.weight" holds int8',
    "lazy": '"0.weight" has no values yet (a lazy layer)',
    "on_meta": '"0.weight" has no values (it is on the device "meta")',
    "the_class": "the class OddNet itself, expected `return OddNet()`",
    "nothing": "gave NoneType, expected a torch.nn.Module; does it return the network?",
    "pair": "gave tuple, expected a torch.nn.Module; let it return the network alone",
    "needs_a_path": "missing a required argument: 'path'; give what it takes in [model] options",
    "reads_a_file": "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent/weights.pth'",
    "instance": "instance is of type OddNet, expected a function",
    "absent": "is the package on PYTHONPATH?",
    "caffe": "divide both by 255: mean = (0.485, 0.456, 0.406), std = (0.229, 0.224, 0.225)",
    "own_mean": 'has a buffer or parameter "mean"',
    "size_of_all_axes": "input_size_px = (3, 32, 32): expected the side",
    "unknown_filter": 'interpolation = "cubic": expected one of bicubic',
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it has deprecated
@pytest.mark.parametrize("factory", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(factory):
    with pytest.raises(UserError) as error:
        load_model(HERE + factory)
    assert REFUSED[factory] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_factory_gets_its_arguments():
    assert load_model(HERE + "needs_a_path", options={"path": "x"}).num_classes == 5


def test_wrappers_that_change_no_number_are_taken_off():
    model, plain = load_model(HERE + "wrapped"), load_model(HERE + "OddNet")
    assert model.layers() == plain.layers()
    assert model.weights_sha256 == plain.weights_sha256
    assert model.mean == (0.1, 0.2, 0.3)
    assert type(model.module) is OddNet
    assert type(model.module.fc) is torch.nn.Linear


def test_networks_of_another_precision_run_in_float32():
    images = torch.randn(2, 3, 32, 32)
    expected = load_model(HERE + "OddNet").module(images)
    for factory, tolerance in (("half", 1e-2), ("double", 1e-5)):
        module = load_model(HERE + factory).module
        assert module(images).dtype == torch.float32
        torch.testing.assert_close(module(images), expected, rtol=tolerance, atol=tolerance)
    own = load_model(HERE + "CastsItself").module
    assert isinstance(own, CastsItself)
    assert own.fc.weight.dtype == torch.bfloat16
