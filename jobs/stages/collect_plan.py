"""What `collect` has to do: the tar shards and layers that are left, and which shards may be left out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.engine.tasks import Attempt, R, RunStoppedError
from jobs.run.resolved import ResolvedRecipe
from jobs.run.run_folder import GUARDED_STAGES, RESULTS
from pipeline.activations.storage.shard_files import SHARD_STATISTICS, folder_of
from pipeline.activations.store import committed_shards, committed_statistics
from pipeline.data.sample_errors import SampleAccount

# Attributes of the statistics: the tar shards that they leave out, with their errors, and which of these are damaged.
SET_ASIDE: Final = "shards_set_aside"
DAMAGED: Final = "shards_damaged"
_NUM_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True)
class CollectPlan:
    """What is left of the activation pass.

    Attributes:
        todo: indices of the tar shards that are left.
        done: how many tar shards need no pass any more.
        layers: to record in them; none, if the statistics are complete.
        adds: whether there are statistics, to which these layers are added.
        folder: where the shard statistics are.
        set_aside: URL → error of the tar shards that the statistics leave out: damaged ones, and those that killed
            their workers.
        retries: whether `todo` are damaged tar shards that the statistics leave out; they are merged anew if one of
            them is whole by now.
    """

    todo: tuple[int, ...]
    done: int
    layers: tuple[str, ...]
    adds: bool
    folder: str
    set_aside: Mapping[str, str]
    retries: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left."""
        return not self.layers


def plan_layers(requested: Sequence[str], statistics: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The layers that are left to record: those that the statistics do not have yet."""
    there = statistics["layers"] if statistics else ()
    return tuple(layer for layer in requested if layer not in there)


def describe_samples(statistics: Mapping[str, Any]) -> str:
    """How many images the statistics cover, what became of all others, and which tar shards are left out."""
    text = SampleAccount(**statistics["account"]).describe(statistics["num_samples"])
    if repeated := statistics["num_repeated_keys"]:
        text += f"; {repeated} images have the key of an earlier one in another tar shard"
    if damaged := statistics.get(DAMAGED):
        text += f"; damaged tar shards left out: {', '.join(damaged[:_NUM_SHOWN])}"
        text += ", …" if len(damaged) > _NUM_SHOWN else ""
    return text


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
        assert statistics is not None
        todo, layers = _retries(resolved, statistics)
        return CollectPlan(
            todo=todo,
            done=len(urls),
            layers=layers,
            adds=adds,
            folder=SHARD_STATISTICS,
            set_aside=set_aside,
            retries=bool(todo),
        )
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


def _retries(resolved: ResolvedRecipe, statistics: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The damaged tar shards that may be read again into finished statistics, and the layers to record in them.

    None once a later stage has results: they are made from the statistics as they are.
    """
    urls, damaged = resolved.shard_urls, statistics.get(DAMAGED, ())
    if not damaged or any(resolved.root.list(RESULTS[stage]) for stage in GUARDED_STAGES[1:]):
        return (), ()
    layers = tuple(statistics["layers"])
    committed = committed_shards(
        resolved.root, recipe_fingerprint=resolved.collect_fingerprint, shard_urls=urls, layers=layers
    )
    if len(committed) < len(urls) - len(statistics[SET_ASIDE]):  # layers were added later
        return (), ()
    return tuple(index for index, url in enumerate(urls) if url in damaged), layers


def check_failures(
    failed: Mapping[int, Attempt[R]], shard_urls: Sequence[str], max_error_fraction: float, *, log: str
) -> dict[int, str]:
    """Index → error of the tar shards that are set aside, which must be all that failed.

    A shard that kills its worker twice holds something that no reader survives, a damaged one has lost images; the
    others are statistics enough. Any other failure (a missing file, an error of the code) may be mended.

    Args:
        failed: index → last attempt.
        shard_urls: all tar shards.
        max_error_fraction: how large a part of the shards may be set aside.
        log: where the tracebacks are.

    Raises:
        RunStoppedError: a shard failed otherwise, or too many did.
    """
    set_aside = {
        index: attempt.error for index, attempt in failed.items() if attempt.lost == "worker" or attempt.is_final
    }
    others = [index for index in failed if index not in set_aside]
    if not others and len(set_aside) <= max_error_fraction * len(shard_urls):
        return set_aside
    first, *more = others or set_aside
    also = f"\nAlso {', '.join(shard_urls[index] for index in more[:_NUM_SHOWN])}" if more else ""
    text = (
        f"{len(failed)} of {len(shard_urls)} tar shards could not be recorded, "
        f"the first is {shard_urls[first]}: {failed[first].error}{also}{', …' if len(more) > _NUM_SHOWN else ''}\n"
        "The others are recorded; run the command again to retry these, or take them out of data.shards. "
        f"Tracebacks are in {log}"
    )
    if not others:
        text += (
            f"\nEach is damaged or killed its worker twice; data.max_error_fraction = {max_error_fraction:g} allows "
            f"{int(max_error_fraction * len(shard_urls))} such shards to be left out"
        )
    raise RunStoppedError(text)
