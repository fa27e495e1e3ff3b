"""cluster.yaml is a file that Ray's cluster launcher takes, and its nodes install this project."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_the_cluster_file_is_valid(config):
    validate_config(prepare_config(config))
    assert config["head_node_type"] in config["available_node_types"]
    workers = config["available_node_types"]["gpu_worker"]
    assert workers["resources"]["GPU"] == 1
    assert workers["max_workers"] <= config["max_workers"]


def test_a_misspelled_key_would_be_noticed(config):
    config["idle_timeout"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_nodes_install_what_is_copied_to_them(config):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (folder,) = config["file_mounts"]
    assert config["file_mounts"][folder] == "."
    home = f"/home/{config['auth']['ssh_user']}"
    (install,) = [command for command in config["setup_commands"] if "pip install" in command]
    installed, extras = re.search(r'-e "\$HOME(/[^"\[]+)\[([a-z0-9,]+)\]"', install).groups()
    assert home + installed == folder
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert project["name"] == Path(folder).name
    (environment,) = re.findall(r'uv venv [^;]*"\$HOME(/[^"]+)"', install)
    assert any(f"$HOME{environment}/bin" in command for command in config["setup_commands"] if "PATH" in command)
