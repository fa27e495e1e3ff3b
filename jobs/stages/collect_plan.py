"""What `collect` has to do: the tar shards and layers that are left, and which shards may be left out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.engine.tasks import Attempt, R, RunStoppedError
from jobs.run.resolved import ResolvedRecipe
from pipeline.activations.storage.shard_files import SHARD_STATISTICS, folder_of
from pipeline.activations.store import committed_shards, committed_statistics

SET_ASIDE: Final = "shards_set_aside"  # attribute of the statistics


@dataclass(frozen=True, kw_only=True)
class CollectPlan:
    """What is left of the activation pass.

    Attributes:
        todo: indices of the tar shards that are left.
        done: how many tar shards need no pass any more.
        layers: to record in them; none, if the statistics are complete.
        adds: whether there are statistics, to which these layers are added.
        folder: where the shard statistics are.
        set_aside: URL → error of the tar shards that the statistics leave out because they killed their workers.
    """

    todo: tuple[int, ...]
    done: int
    layers: tuple[str, ...]
    adds: bool
    folder: str
    set_aside: Mapping[str, str]

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return not self.layers


def plan_layers(requested: Sequence[str], statistics: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The layers that are left to record: those that the statistics do not have yet."""
    there = statistics["layers"] if statistics else ()
    return tuple(layer for layer in requested if layer not in there)


def shards_digest(shard_urls: Sequence[str]) -> str:
    """By which the statistics know their tar shards, 16 hex digits."""
    return hashlib.sha256("\n".join(shard_urls).encode()).hexdigest()[:16]


def read_plan(resolved: ResolvedRecipe) -> CollectPlan:
    """`todo = requested − committed`, by what is in storage; statistics of another recipe or shards count as none."""
    urls, root, fingerprint = resolved.shard_urls, resolved.root, resolved.collect_fingerprint
    statistics = committed_statistics(root)
    if statistics is not None and (statistics["recipe_fingerprint"], statistics.get("shards_digest")) != (
        fingerprint,
        shards_digest(urls),
    ):
        statistics = None
    layers = plan_layers(resolved.layers, statistics)
    adds, set_aside = statistics is not None, (statistics or {}).get(SET_ASIDE, {})
    if not layers:
        return CollectPlan(todo=(), done=len(urls), layers=(), adds=adds, folder=SHARD_STATISTICS, set_aside=set_aside)
    folder = folder_of(layers) if adds else SHARD_STATISTICS
    classifier = [resolved.model.classifier_layer] if resolved.model.classifier_layer else []  # always recorded
    committed = committed_shards(
        root,
        recipe_fingerprint=fingerprint,
        shard_urls=urls,
        layers={*layers, *classifier},
        folder=folder,
    )
    todo = tuple(index for index, url in enumerate(urls) if index not in committed and url not in set_aside)
    return CollectPlan(
        todo=todo, done=len(urls) - len(todo), layers=layers, adds=adds, folder=folder, set_aside=set_aside
    )


def check_failures(
    failed: Mapping[int, Attempt[R]], shard_urls: Sequence[str], max_error_fraction: float, *, log: str
) -> dict[int, str]:
    """Index → error of the tar shards that are set aside, which must be all that failed.

    A shard that kills its worker twice holds something that no reader survives; the others are statistics enough. Any
    other failure (a missing file, an error of the code) may be mended.

    Args:
        failed: index → last attempt.
        shard_urls: all tar shards.
        max_error_fraction: how large a part of the shards may be set aside.
        log: where the tracebacks are.

    Raises:
        RunStoppedError: a shard failed otherwise, or too many did.
    """
    set_aside = {index: attempt.error for index, attempt in failed.items() if attempt.lost == "worker"}
    others = [index for index in failed if index not in set_aside]
    if not others and len(set_aside) <= max_error_fraction * len(shard_urls):
        return set_aside
    index = others[0] if others else next(iter(set_aside))
    text = (
        f"{len(failed)} of {len(shard_urls)} tar shards could not be recorded, "
        f"the first is {shard_urls[index]}: {failed[index].error}\n"
        "The others are recorded; run the command again to retry these, or take them out of data.shards. "
        f"Tracebacks are in {log}"
    )
    if not others:
        text += (
            f"\nEach killed its worker twice; data.max_error_fraction = {max_error_fraction:g} allows "
            f"{int(max_error_fraction * len(shard_urls))} such shards to be left out"
        )
    raise RunStoppedError(text)
