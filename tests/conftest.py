"""Settings for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from jobs.engine.ray_engine import RayEngine
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

# Ray kills workers once a machine has little memory left; how much others use of it is no part of any test.
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
# Ray's workers give way to other processes; beside the browser of other tests they would starve.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

# No deadline per example: the machine may be busy, and a time-out per test is set in pyproject.toml.
settings.register_profile("neuron-atlas", deadline=None)
settings.load_profile("neuron-atlas")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file run in one process, and all files that start Ray in the same: clusters at once take turns."""
    start_ray = {item.path for item in items if {"ray_engine", "nodes"} & set(getattr(item, "fixturenames", ()))}
    for item in items:
        name = item.path.relative_to(ROOT).as_posix()
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in start_ray else name))


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[RayEngine]:
    """A real local Ray with two CPUs, started once for all tests that ask for it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Ray spells it so. The least; by default a metric is seen after ten seconds.
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112
    engine = RayEngine("local", num_cpus=2)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def s3_server_of_session() -> "Iterator[S3Server]":
    """The S3 server on loopback, started once; tests ask for `s3_server` or `s3_url`."""
    from tests.support.s3_server import S3Server  # half a second of imports that other tests need not pay

    with S3Server() as server:
        yield server


@pytest.fixture
def s3_server(s3_server_of_session: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[S3Server]":
    """A real S3 server without faults, in the usual environment, as a user's shell would have it.

    Processes that a test starts inherit it. The workers of `ray_engine` do not: they may have been started before. A
    test on Ray and S3 starts `neuron-atlas run --address local` as a child process, on a Ray of its own.
    """
    from tests.support.s3_server import environment_of

    for name, value in environment_of(s3_server_of_session).items():
        monkeypatch.setenv(name, value)
    s3_server_of_session.reset()
    yield s3_server_of_session
    s3_server_of_session.reset()


@pytest.fixture
def s3_url(s3_server: "S3Server") -> str:
    """A place of its own on `s3_server`: a prefix in a fresh bucket."""
    return f"s3://{s3_server.make_bucket()}/place"


@pytest.fixture(scope="session")
def good_atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small atlas without a fault, built once; tests of validation damage copies of it."""
    from tests.support.damaged_atlas import build_good

    return build_good(tmp_path_factory.mktemp("good") / "atlas")
