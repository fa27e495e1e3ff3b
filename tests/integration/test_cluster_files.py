"""The cluster files are what their launchers take, install this project, and start command lines that it has."""

import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

from jobs.cli import make_parser
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SLURM = ROOT / "docs/cluster/slurm.sh"


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def job():
    return yaml.safe_load((ROOT / "docs/cluster/rayjob.yaml").read_text())["spec"]


def run_command(words):
    """A `neuron-atlas run` as its parser reads it; the command line may name no other program."""
    assert words[0] == "neuron-atlas"
    parsed = make_parser().parse_args(words[1:])
    assert parsed.command == "run"
    return parsed


def test_the_cluster_file_is_valid(config):
    validate_config(prepare_config(config))


def test_a_misspelled_key_would_be_noticed(config):
    config["idle_timeout"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_the_head_takes_no_work_and_both_kinds_of_workers_come_and_go(config):
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert {name: kind["resources"].get("GPU", 0) for name, kind in kinds.items()} == {"gpu_worker": 1, "cpu_worker": 0}
    assert kinds["gpu_worker"]["min_workers"] == 1  # see `resolve_resources`: "auto" takes GPUs that are there
    assert kinds["cpu_worker"]["min_workers"] == 0
    for kind in kinds.values():
        assert kind["min_workers"] < kind["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 100
    assert sum(kind["max_workers"] for kind in kinds.values()) <= config["max_workers"]


def test_nodes_install_what_is_copied_to_them(config):
    (folder,) = config["file_mounts"]
    assert config["file_mounts"][folder] == "."
    home = f"/home/{config['auth']['ssh_user']}"
    (install,) = [command for command in config["setup_commands"] if "pip install" in command]
    installed, extras = re.search(r'-e "\$HOME(/[^"\[]+)\[([a-z0-9,]+)\]"', install).groups()
    assert home + installed == folder
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert PROJECT["name"] == Path(folder).name
    (constraints,) = re.findall(r'-c "\$HOME(/[^"]+)"', install)
    assert (ROOT / Path(home + constraints).relative_to(folder)).is_file()
    (environment,) = re.findall(r'uv venv [^;]*"\$HOME(/[^"]+)"', install)
    assert any(f"$HOME{environment}/bin" in command for command in config["setup_commands"] if "PATH" in command)


def test_the_rayjob_runs_a_recipe_on_the_cluster_that_it_starts(job):
    assert run_command(shlex.split(job["entrypoint"])).address == "auto"
    assert job["shutdownAfterJobFinishes"]
    assert job["ttlSecondsAfterFinished"] > 0
    assert job["backoffLimit"] > 0
    cluster = job["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert 1 <= group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_pods_have_one_ray_bounded_memory_a_place_for_objects_and_credentials(job):
    cluster = job["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["containers"]
        assert f":{cluster['rayVersion']}-py311" in container["image"]
        limits, (volume,), (mount,) = container["resources"]["limits"], pod["volumes"], container["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], "/dev/shm")
        size, memory = (int(text.removesuffix("Gi")) for text in (volume["emptyDir"]["sizeLimit"], limits["memory"]))
        assert volume["emptyDir"]["medium"] == "Memory"
        assert 0.3 * memory <= size < memory / 2  # Ray's object store takes 30 % of what the pod may have
        assert container["envFrom"] == [{"secretRef": {"name": "neuron-atlas-storage", "optional": True}}]
    assert cluster["rayVersion"] == ray.__version__
    assert f"ray=={ray.__version__}\n" in (ROOT / "constraints.txt").read_text()


def test_the_rayjob_installs_this_project_without_variables_that_a_shell_would_expand(job):
    constraints, package = yaml.safe_load(job["runtimeEnvYAML"])["pip"]["packages"]
    name, extra = re.fullmatch(
        r"([\w-]+)\[(\w+)\] @ https://github\.com/OWNER/neuron-atlas/archive/REF\.zip", package
    ).groups()
    assert name == PROJECT["name"]
    assert extra in PROJECT["optional-dependencies"]
    assert (ROOT / re.fullmatch(r"--constraint https://\S+/OWNER/neuron-atlas/REF/(\S+)", constraints)[1]).is_file()
    assert "$" not in job["runtimeEnvYAML"]  # KubeRay passes it through the command line of a shell


@pytest.fixture
def slurm(tmp_path):
    """A function that starts slurm.sh as SLURM would, among stand-ins that note their arguments in `tmp_path`."""
    commands = tmp_path / "venv/bin"
    commands.mkdir(parents=True)
    note = 'printf "%s\\n" "$@" > "$NOTES/${0##*/}"\n'
    for name, body in {
        "srun": note + 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "ray": note + 'printf "%s\\n" "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN" > "$NOTES/token"; eval "$MEANWHILE"',
        "scontrol": note,
        "hostname": "echo 10.0.0.7 fd00::7",
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    (commands / "activate").write_text(f'PATH="{commands}:$PATH"\n')

    def begin(*arguments, meanwhile):
        environment = os.environ | {
            "NOTES": str(tmp_path),
            "MEANWHILE": meanwhile,
            "NEURON_ATLAS_VENV": str(tmp_path / "venv"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "4",
            "SLURM_CPUS_PER_TASK": "32",
        }
        return subprocess.Popen(
            ["bash", SLURM, *arguments], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return begin


def test_slurm_starts_one_ray_over_all_nodes_and_runs_the_recipe_on_it(slurm, tmp_path):
    process = slurm("my atlas.toml", "--set", "compute.gpus_per_actor=1", meanwhile="exit 3")
    assert process.communicate()[1] == ""
    assert process.returncode == 3  # finished with failed neurons
    arguments = (tmp_path / "ray").read_text().splitlines()
    assert arguments[0] == "symmetric-run"
    split = arguments.index("--")
    for_ray = symmetric_run.make_context("symmetric-run", arguments[1:split]).params
    assert (for_ray["address"], for_ray["min_nodes"]) == ("10.0.0.7:6379", 4)
    started = start.make_context("start", ["--head", *curate_and_validate_ray_start_args(arguments[1:split])]).params
    assert (started["num_cpus"], started["temp_dir"]) == (32, "/tmp/ray-4711")
    command = run_command(arguments[split + 1 :])
    assert (command.recipe, command.address, command.set) == ("my atlas.toml", "auto", ["compute.gpus_per_actor=1"])
    assert {"--nodes=4", "--ntasks=4", "--cpus-per-task=32"} <= set((tmp_path / "srun").read_text().splitlines())
    mode, token = (tmp_path / "token").read_text().splitlines()
    assert mode == "token"
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert not (tmp_path / "scontrol").exists()


def test_slurm_puts_a_job_at_its_time_limit_back_into_the_queue(slurm, tmp_path):
    assert re.search(r"^#SBATCH --requeue$", SLURM.read_text(), re.MULTILINE)
    assert re.search(r"^#SBATCH --signal=B:USR1@\d+$", SLURM.read_text(), re.MULTILINE)
    process = slurm("atlas.toml", meanwhile="exec sleep 600")
    deadline = time.monotonic() + 240
    while not (tmp_path / "token").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(240) == 0
    os.killpg(process.pid, signal.SIGKILL)  # what SLURM does to the job's steps
    process.communicate()
    assert (tmp_path / "scontrol").read_text().splitlines() == ["requeue", "4711"]


def test_slurm_says_what_it_wants(slurm):
    process = slurm(meanwhile="")
    assert "usage: sbatch slurm.sh RECIPE" in process.communicate()[1]
    assert process.returncode != 0
