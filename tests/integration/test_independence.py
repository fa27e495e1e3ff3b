"""What a run publishes depends neither on how many workers there are, nor on who does what when, nor on shard order."""

import json
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from jobs.engine.inline import InlineEngine
from jobs.engine.tasks import A, LazyWorker, Outcome, R, Resources, Task
from jobs.run.run_folder import STAGES
from jobs.runner import run_stages
from tests.integration.test_killed import published
from tests.support.tiny_run import tiny_recipe, write_data


class Crowd(InlineEngine):
    """Workers of one process that take tasks in any order; each actor keeps a model of its own."""

    def __init__(self, num_workers: int, seed: int) -> None:
        self.num_workers = num_workers
        self._random = random.Random(seed)

    def slots(self, resources: Resources) -> int:
        return self.num_workers

    def run_tasks(
        self, function: Callable[[A], R], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        return super().run_tasks(function, self._random.sample(tasks, len(tasks)), resources)

    def run_actors(
        self, factory: Callable[[], Callable[[A], R]], tasks: Sequence[Task[A]], resources: Resources
    ) -> Iterator[Outcome[A, R]]:
        actors = [LazyWorker(factory) for _ in range(self.num_workers)]
        for task in self._random.sample(tasks, len(tasks)):
            yield from super().run_tasks(self._random.choice(actors), [task], resources)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), num_shards=5, per_shard=5)


def run(out, shards: str, *overrides: str, engine: InlineEngine) -> dict[str, bytes]:
    run_stages(tiny_recipe(shards, out, *overrides), STAGES, engine=engine, echo=lambda line: None)
    return published(out)


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """What one worker publishes that does everything in the order planned."""
    return run(tmp_path_factory.mktemp("alone") / "out", shards, engine=InlineEngine())


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_any_number_of_workers_in_any_order_gives_the_same_bytes(shards, alone, tmp_path, num_workers):
    assert run(tmp_path / "out", shards, engine=Crowd(num_workers, seed=num_workers)) == alone


def test_the_order_in_which_shards_are_named_changes_nothing(shards, alone, tmp_path):
    folder = shards.rpartition("/")[0]
    names = [f"{folder}/tiny-{number:06d}.tar" for number in (3, 0, 4, 2, 1)]
    made = run(tmp_path / "out", shards, f"data.shards={json.dumps(names)}", engine=InlineEngine())
    assert made == alone
    again = tiny_recipe(shards, tmp_path / "out", f"data.shards={json.dumps(names[::-1])}")
    reports = run_stages(again, STAGES[:-1], address="inline", echo=lambda line: None)
    assert [report.done for report in reports] == [0, 0, 0, 0]  # and is no other recipe
