"""The run's model inside a worker: one per process."""

from jobs.engine.worker import Shared
from pipeline.models import Model, torchvision_operators


def model_on(shared: Shared[Model], device: str) -> Model:
    """The run's model on this worker's device; fetched and moved once per process."""
    torchvision_operators.declare()  # before a torchvision model is unpickled, see that module
    model = shared.get()
    if model.device.type != device:
        model.move_to(device)
    return model
