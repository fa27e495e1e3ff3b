"""Runs on later calls of a module, on an output that is made of several heads, and on one that is a map."""

from torch import Tensor, nn

from jobs.run.run_folder import STAGES
from jobs.runner import run_stages
from pipeline.activations.store import StatisticsStore
from pipeline.atlas.validation.validate import validate
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from pipeline.neurons import layer_file_name
from tests.support.tiny_run import NUM_CLASSES, SIZE_PX, tiny_recipe, write_data


class SharedActivation(nn.Module):
    """Two convolutions with one activation, and two heads whose mean is part of a dict."""

    input_size_px = SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.heads = nn.ModuleList([nn.Linear(6, NUM_CLASSES) for _ in range(2)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.act(self.second(self.act(self.norm(self.first(x)))))
        pooled = x.mean(dim=(2, 3))
        return {"features": pooled, "scores": (self.heads[0](pooled) + self.heads[1](pooled)) / 2}


def test_a_later_call_and_the_mean_of_heads_become_an_atlas(tmp_path):
    layers = ["act", "act@2"]
    recipe = tiny_recipe(
        write_data(tmp_path / "data"),
        tmp_path / "atlas",
        'model.name="python:tests.integration.test_calls:SharedActivation"',
        'model.output="scores"',
        'statistics.layers=["act*"]',
        'targets.feature_layers=[{layer="act", weight=1.0}, {layer="act@2", weight=1.0}]',
        'neurons=[{layer="classifier", units="all"}, {layer="act@2", units="0:6"}]',
    )
    for report in run_stages(recipe, STAGES, address="inline", echo=lambda line: None):
        assert report.failed == 0
    root = Root.open(tmp_path / "atlas")
    assert validate(str(tmp_path / "atlas")) == []
    statuses = {
        layer: [row["status"] for row in read_rows(root, f"layers/{layer_file_name(layer)}.parquet")]
        for layer in ("output", "act@2")
    }
    assert {layer: len(found) for layer, found in statuses.items()} == {"output": NUM_CLASSES, "act@2": 6}
    assert not {"failed"} & {status for found in statuses.values() for status in found}
    statistics = StatisticsStore.open(root)
    assert set(statistics.layers) == {*layers, "output"}
    assert [statistics.moments(layer).mean.shape for layer in layers] == [(4,), (6,)]


class Segmenter(nn.Module):
    """A class for every place of the image, in a dict, as torchvision's segmentation networks."""

    input_size_px = SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Conv2d(6, NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": nn.functional.interpolate(self.classifier(self.backbone(x)), x.shape[2:]), "size": x.mean()}


def test_a_network_without_classes_goes_through_every_stage(tmp_path):
    recipe = tiny_recipe(
        write_data(tmp_path / "data"),
        tmp_path / "atlas",
        'model.name="python:tests.integration.test_calls:Segmenter"',
        'statistics.layers=["backbone.*", "classifier"]',
        'neurons=[{layer="backbone.3", units="all"}]',
    )
    reports = run_stages(recipe, STAGES, address="inline", echo=lambda line: None)
    assert [report.failed for report in reports] == [0] * len(STAGES)
    assert validate(str(tmp_path / "atlas")) == []
    rows = read_rows(Root.open(tmp_path / "atlas"), "layers/backbone.3.parquet")
    assert all(row["image_path"] for row in rows if row["status"] != "dead")
    assert len(rows) == 6
