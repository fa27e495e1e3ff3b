"""The names that `pipeline` offers, and that importing it is light."""

import inspect
import subprocess
import sys

import pytest

import pipeline

NAMES = [
    "Model", "Visualization", "add_combination", "add_concepts", "load_model", "relevance", "sort_matching",
    "sorted_target", "visualize",
]  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_light():
    loaded = run("import pipeline, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert "pipeline" in loaded
    assert not {"torch", "numpy", "ray", "zarr", "pyarrow", "webdataset", "PIL"} & set(loaded)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_callable_from_the_package(name):
    assert callable(getattr(pipeline, name))
    assert name in dir(pipeline)


def test_the_signature_is_that_of_the_contract():
    parameters = list(inspect.signature(pipeline.relevance).parameters.values())
    contract = ["module", "images", "layer", "units", "feature_layers", "rule"]
    assert [parameter.name for parameter in parameters[: len(contract)]] == contract
    assert all(parameter.default is not inspect.Parameter.empty for parameter in parameters[len(contract) - 1 :])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'relevanse'"):
        _ = pipeline.relevanse
