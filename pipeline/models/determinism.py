"""Whether an image's features depend on the image alone: neither on chance nor on the other images of its batch."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.model import Model
from pipeline.models.outputs import parts_of

# Of each tensor so many values are kept, evenly spread: what is random or mixes images does so everywhere.
_NUM_VALUES: Final = 4096
# Passes of a network that draws random numbers. Stochastic depth that drops one image in ten leaves both of a batch in
# all of them once in a thousand times: 0.81 ** 32.
_NUM_REPEATS: Final = 32

_Key = tuple[str, bool, int]  # a module, whether it was left, and the how manieth tensor of its inputs or outputs


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A tensor that entered or left a module.

    Attributes:
        shape: of the tensor.
        first: values of row 0, float64.
        all: values of all rows, float64.
        eps: of the tensor's type.
    """

    shape: tuple[int, ...]
    first: Tensor
    all: Tensor
    eps: float


_Pass = Mapping[_Key, _Seen]


def check_determinism(model: Model) -> None:
    """Refuse a network whose features of an image differ from pass to pass, or with the other images of the batch.

    An image of noise is shown beside a second one, beside one of another brightness and contrast, and alone. If its
    features differ by more than rounding, or the network draws random numbers, the first batch is shown again.
    Global random states stay as they are. A model that has passed is not tried again until it changes.

    Raises:
        UserError: with the first layer at which passes differ, the likely cause and the remedy; or the network does
            not run on one image alone.
    """
    if model.is_deterministic:
        return
    module, name, device, size_px = model.module, model.name, model.device, model.input_size_px
    _ = model.feature_shapes  # it must run on images of this size
    generator = torch.Generator().manual_seed(0)
    image, other = torch.randn(2, len(model.mean), size_px, size_px, generator=generator).to(device)
    batch, beside_another = torch.stack([image, other]), torch.stack([image, 0.3 * other - 1.5])
    with _random_states(device), torch.no_grad():
        first, draws = _record(module, batch, seed=1)
        second, _ = _record(module, beside_another, seed=2)
        try:
            alone, error = _record(module, batch[:1], seed=1)[0], ""
        except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as raised:
            alone, error = {}, f"{type(raised).__name__}: {raised}"
        differing = _first_mixed(first, second, alone)
        if draws or differing:
            for repeat in range(_NUM_REPEATS if draws else 1):
                again, _ = _record(module, batch, seed=3 + repeat)
                changing = next((key for key in first if key in again and _differ(first[key].all, again[key])), None)
                if changing is not None:
                    raise UserError(f'model "{name}" {_describe_changing(module, changing, draws=draws)}')
    if differing is not None:
        raise UserError(f'model "{name}" {_describe_mixed(module, differing)}')
    if error:
        raise UserError(
            f'model "{name}" runs on two images and not on one alone ({error}); a batch may hold one image, '
            "so let its forward take any number of them"
        )
    model.is_deterministic = True


@contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    """Leave the global random states of torch, NumPy and Python as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def _record(module: nn.Module, images: Tensor, *, seed: int) -> tuple[dict[_Key, _Seen], bool]:
    """One pass: what entered and left each module, in order, and whether random numbers were drawn."""
    seen: dict[_Key, _Seen] = {}
    counts: Counter[tuple[str, bool]] = Counter()

    def note(name: str, is_output: bool, values: object) -> None:
        for tensor in _tensors(values):
            place = counts[name, is_output]
            counts[name, is_output] += 1
            if tensor.is_floating_point() and tensor.ndim and tensor.numel():
                seen[name, is_output, place] = _seen(tensor)

    handles = []
    for name, child in module.named_modules():
        handles.append(
            child.register_forward_pre_hook(
                lambda _m, args, kwargs, name=name: note(name, False, (args, kwargs)), with_kwargs=True
            )
        )
        handles.append(child.register_forward_hook(lambda _m, _i, output, name=name: note(name, True, output)))
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    before = _drawn(images.device)
    try:
        module(images.clone())  # a network may write into its input
    finally:
        for handle in handles:
            handle.remove()
    return seen, _drawn(images.device) != before


def _drawn(device: torch.device) -> tuple[object, ...]:
    """The random states as values that can be compared."""
    on_device = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    of_numpy = np.random.get_state(legacy=False)["state"]
    of_torch = torch.get_rng_state().numpy().tobytes()
    return of_torch, on_device, of_numpy["key"].tobytes(), of_numpy["pos"], random.getstate()


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors of what a module takes or gives."""
    if isinstance(value, Tensor):
        yield value
    else:
        for part in parts_of(value).values():
            yield from _tensors(part)


def _seen(tensor: Tensor) -> _Seen:
    return _Seen(
        shape=tuple(tensor.shape),
        first=_values(tensor[0]),
        all=_values(tensor),
        eps=torch.finfo(tensor.dtype).eps,
    )


def _values(tensor: Tensor) -> Tensor:
    # An odd stride: one that divides the axes would see the same channel or column everywhere.
    stride = max(1, tensor.numel() // _NUM_VALUES) | 1
    return tensor.detach().flatten()[::stride].to("cpu", torch.float64, copy=True)  # networks write in place


def _first_mixed(first: _Pass, second: _Pass, alone: _Pass) -> _Key | None:
    """The first tensor whose row 0, which is the same image in all passes, differs between them.

    Only of tensors whose axis 0 has one row for one image and two for two: others hold rows, windows or heads there.
    """
    for key, seen in first.items():
        single = alone.get(key)
        counts_images = seen.shape[0] == 2 and (not alone or (single and single.shape == (1, *seen.shape[1:])))
        others = [other[key] for other in (second, alone) if key in other]
        if counts_images and any(_differ(seen.first, other, row=True) for other in others):
            return key
    return None


def _differ(values: Tensor, other: _Seen, *, row: bool = False) -> bool:
    """Whether two passes differ by more than rounding: half of the digits, of the spread of the values."""
    others = other.first if row else other.all
    if values.shape != others.shape:
        return True
    same = (values == others) | (values.isnan() & others.isnan())
    if same.all():
        return False
    finite = values[values.isfinite()]
    magnitude = finite.square().mean().sqrt() if len(finite) else torch.tensor(0.0)
    spread = finite.std(correction=0) if len(finite) else torch.tensor(0.0)
    difference = torch.where(same, 0.0, values - others).square().mean().sqrt()
    return not bool(difference <= other.eps**0.5 * spread + 32 * other.eps * magnitude)


def _describe_changing(module: nn.Module, key: _Key, *, draws: bool) -> str:
    name, is_output, _ = key
    child: Any = module.get_submodule(name)
    is_leaf = next(child.children(), None) is None
    where = f"{_place(module, key)} is the first that differs"
    if not draws:
        return (
            f"gives other features of the same images at each pass, without drawing random numbers: {where}; it keeps "
            "a state between passes: let it change nothing in evaluation mode"
        )
    if is_output and is_leaf:
        cause = f"{type(child).__name__} draws random numbers in evaluation mode: let it do so only if self.training"
    else:
        cause = (
            "most likely dropout is called functionally without `training=self.training`, or noise is added in "
            "evaluation mode"
        )
    return f"gives other features of the same images at each pass: {where}; {cause}"


def _describe_mixed(module: nn.Module, key: _Key) -> str:
    name, is_output, _ = key
    child: Any = module.get_submodule(name)
    text = f"gives an image other features beside other images of a batch: {_place(module, key)} is the first"
    if is_output and isinstance(child, nn.modules.batchnorm._BatchNorm):
        why = "it is in training mode" if child.training else "it has no running statistics (track_running_stats=False)"
        return (
            f"{text}: {type(child).__name__} normalizes by the batch, since {why}; give it running statistics of the "
            "training images, or replace it by a normalization of single images"
        )
    return f"{text}; let the network compute each image by itself in evaluation mode"


def _place(module: nn.Module, key: _Key) -> str:
    name, is_output, _ = key
    kind = f"({type(module.get_submodule(name)).__name__})"
    if not name:
        return "the network's output" if is_output else "the network's input"
    return f'the output of layer "{name}" {kind}' if is_output else f'the input of layer "{name}" {kind}'
