"""Settings for all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from jobs.ray_engine import RayEngine

# No deadline per example: the machine may be busy, and a time-out per test is set in pyproject.toml.
settings.register_profile("neuron-atlas", deadline=None)
settings.load_profile("neuron-atlas")


@pytest.fixture(scope="session")
def ray_engine() -> Iterator[RayEngine]:
    """A real local Ray with two CPUs, started once for all tests that ask for it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    engine = RayEngine("local", num_cpus=2)
    yield engine
    engine.close()
