"""Settings for all tests."""

from hypothesis import settings

# No deadline per example: the machine may be busy, and a time-out per test is set in pyproject.toml.
settings.register_profile("neuron-atlas", deadline=None)
settings.load_profile("neuron-atlas")
