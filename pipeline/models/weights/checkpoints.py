"""Which of a checkpoint's tensors are a network's weights.

Trainers wrap a state dict in tables (`{"model": …, "model_ema": …, "optimizer": …}`) and names in prefixes
(`module.`, `_orig_mod.`, `backbone.`). Every table and every prefix is tried. If several fit and differ, averaged
weights go first; without any, it is an error.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.weights.files import is_pickled_module, stand_in_class
from pipeline.models.weights.name_matching import Fit, Names, Rename, StateDict, Table, find_fits, is_average, misfit

_MAX_DEPTH: Final = 6  # of nested tables
_NUM_COLORS: Final = 3


def choose(
    checkpoint: Any,
    module: nn.Module,
    source: str,
    *,
    renames: Sequence[Rename] = (),
    surplus: Callable[[], Collection[str]] = tuple,
) -> tuple[Fit, list[str]]:
    """The weights of a network in a checkpoint, and remarks on what was taken.

    Args:
        checkpoint: what `read_checkpoint` gives.
        module: the network; its buffers of integers (counters, indices) may be missing.
        source: of the checkpoint, for messages.
        renames: from foreign names to the network's, tried where these do not fit; None if they are not those.
        surplus: gives names that the network has not and that may be left out.

    Raises:
        UserError: no table fits, or several that differ and of which not exactly one is an average.
    """
    tables = list(_tables(checkpoint))
    if not tables:
        raise UserError(
            _pickled_model(checkpoint, source)
            or f'model.weights = "{source}": the file holds no state dict (a map from name to tensor): only tensors '
            'are read from a weights file; save it by `torch.save(model.state_dict(), "weights.pth")`'
        )
    names = Names.of(module, surplus)
    fits = [fit for table in tables for fit in find_fits(table, names, renames)]
    fits = _of_right_shape(_completed(fits, names), names)
    if not fits:
        raise UserError(_pickled_model(checkpoint, source) or misfit(tables, names, source))
    fits = _without_current_state(fits, tables)
    averages = [fit for fit in fits if fit.is_average]
    preferred = averages or fits
    chosen = preferred[0]
    other = next((fit for fit in preferred if not _are_equal(fit.state, chosen.state)), None)
    if other is not None:
        raise UserError(
            f'model.weights = "{source}" holds several sets of weights that fit and differ: '
            f"{'; '.join(fit.place for fit in preferred)}. Save the one that you mean: `torch.save("
            f'torch.load("{source}", weights_only=False){_subscripts(chosen.table.keys)}, "weights.pth")`'
        )
    return chosen, _remarks(chosen, fits, tables, source)


def _tables(node: Any, keys: tuple[Any, ...] = ()) -> Iterator[Table]:
    """All dicts with tensors, outer ones first; the state of an optimizer holds none."""
    if len(keys) > _MAX_DEPTH or (keys and str(keys[-1]).startswith("optim")):
        return
    items: list[tuple[Any, Any]] = []
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, list | tuple):
        items = list(enumerate(node))
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if tensors:
        yield Table(keys=keys, tensors=tensors)
    for key, value in items:
        yield from _tables(value, (*keys, key))


def _completed(fits: list[Fit], names: Names) -> list[Fit]:
    """Averages of parameters alone with the buffers of the weights beside them, as their trainer evaluates them."""
    required = set(names.required)
    whole = [fit.state for fit in fits if required <= fit.state.keys()][:1]
    return [replace(fit, state={**state, **fit.state}) for fit in fits for state in whole]


def _of_right_shape(fits: list[Fit], names: Names) -> list[Fit]:
    """Those whose tensors have the network's shapes; all if none has."""
    right = [fit for fit in fits if all(value.shape == names.expected[name].shape for name, value in fit.state.items())]
    return right or fits


def _without_current_state(fits: list[Fit], tables: Sequence[Table]) -> list[Fit]:
    """Lightning's WeightAveraging keeps the average in `state_dict` and the last step in `current_model_state`."""
    if not any(table.keys == ("current_model_state",) for table in tables):
        return fits
    return [replace(fit, is_average=fit.table.keys == ("state_dict",)) for fit in fits]


def _are_equal(first: StateDict, second: StateDict) -> bool:
    return first is second or all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first.keys() & second.keys()
    )


def _remarks(chosen: Fit, fits: Sequence[Fit], tables: Sequence[Table], source: str) -> list[str]:
    """What a user has to know of what was taken; nothing of a plain state dict."""
    remarks = []
    others = [fit.place for fit in fits if not fit.is_average]
    if chosen.table.keys or chosen.prefix or (chosen.is_average and others):
        what = "averaged weights (EMA), " if chosen.is_average else ""
        preferred = f", preferred to {'; '.join(others)}" if chosen.is_average and others else ""
        remarks.append(f"weights: {what}{chosen.place} of {source}{preferred}")
    if chosen.left_out:
        shown = ", ".join(list(chosen.left_out)[:3]) + (", …" if len(chosen.left_out) > 3 else "")
        remarks.append(f"weights: {len(chosen.left_out)} tensors of the same table are not the model's: {shown}")
    for name in sorted(chosen.left_out, key=len):
        value = chosen.table.tensors.get(name)
        if value is not None and value.numel() == _NUM_COLORS and name.endswith("mean"):
            numbers = ", ".join(f"{number:.4g}" for number in value.flatten().tolist())
            remarks.append(
                f"weights: the network was trained behind a normalization of its own, {name} = ({numbers}); compare it "
                "with the model's preprocessing, which is used instead"
            )
            break
    unused = [table.path for table in tables if is_average(table.path)]
    unused += sorted({top for top in (name.partition(".")[0] for name in chosen.left_out) if is_average(top)})
    if unused and not chosen.is_average:
        remarks.append(f"weights: averaged ones (EMA) are there but do not fit the model: {', '.join(unused)}")
    return remarks


def _subscripts(keys: Sequence[Any]) -> str:
    return "".join(f"[{key!r}]" for key in keys).replace("'", '"')


def _pickled_model(checkpoint: Any, source: str) -> str | None:
    """How to save the state dict of a whole model that a checkpoint holds; None if it holds none."""
    inside = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    items = [((), checkpoint), *(((key,), value) for key, value in inside)]
    for keys, value in items:
        if is_pickled_module(value):
            return (
                f'model.weights = "{source}" holds a whole pickled model ({stand_in_class(value)}), which could run '
                "code when it is read; if you trust the file, save its state dict: `torch.save(torch.load("
                f'"{source}", weights_only=False){_subscripts(keys)}.state_dict(), "weights.pth")`'
            )
    return None
