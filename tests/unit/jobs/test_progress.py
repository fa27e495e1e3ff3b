"""Progress: plain lines without a terminal, a bar with one."""

import io

import pytest

from jobs.reporting.progress import (
    PLAIN_LINE_EVERY_S,
    RECENT_S,
    Progress,
    RecentRate,
    format_bytes,
    format_duration,
    format_rate,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3.14, "3.1 s"),
        (42, "42 s"),
        (59.6, "60 s"),
        (60, "1 min 0 s"),
        (3905, "1 h 5 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(812, "812 B"), (3.4e6, "3.4 MB"), (7.2e9, "7.2 GB"), (2e13, "20.0 TB")])
def test_sizes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("per_second", "text"), [(12.5, "12.50/s"), (1, "1.00/s"), (0.5, "30.0/min"), (1 / 60, "1.0/min"), (0.001, "3.6/h")]
)
def test_rates(per_second, text):
    assert format_rate(per_second) == text


def test_plain_lines_say_rate_and_time_left():
    clock, stream = Clock(), io.StringIO()
    with Progress("visualize", total=40, noun="neurons", stream=stream, clock=clock) as progress:
        clock.now_s += 1
        progress.advance(1)  # too soon for a line
        clock.now_s += PLAIN_LINE_EVERY_S
        progress.advance(10, failed=2)
        clock.now_s += 9
        progress.advance(29)
    assert stream.getvalue().splitlines() == [
        "visualize: 40 neurons",
        "visualize: 11/40 neurons, 1.00/s, 29 s left, 2 failed (18.2%)",
        "visualize: 40/40 neurons, 2.00/s, 20 s, 2 failed (5.0%)",
    ]


def test_time_left_follows_the_recent_rate():
    clock, stream = Clock(), io.StringIO()
    with Progress("collect", total=1000, noun="tar shards", stream=stream, clock=clock) as progress:
        for seconds, num_workers in ((100, 1), (100, 5)):  # four nodes join after 100 s
            for _ in range(seconds):
                clock.now_s += 1
                progress.advance(num_workers)
        assert stream.getvalue().splitlines()[-1] == "collect: 600/1000 tar shards, 5.00/s, 1 min 20 s left"


def test_the_recent_rate_forgets_in_time_and_bears_tasks_that_end_together():
    rate = RecentRate(0.0)
    assert rate.per_second(10.0) == 0
    for burst in range(1, 5):  # 64 workers, each with a batch of 100 s: 0.64 per second, in bursts
        for worker in range(64):
            rate.add(100.0 * burst + worker / 64, 1)
        assert 0.5 < rate.per_second(100.0 * burst + 1) < 1
        assert 0.3 < rate.per_second(100.0 * burst + 99) < 0.7
    for second in range(2 * int(RECENT_S)):  # one worker is left
        rate.add(500.0 + second, 1)
    assert rate.per_second(500.0 + 2 * RECENT_S) == pytest.approx(1, rel=0.01)
    rate.add(500.0 + 3 * RECENT_S, 1)  # and its last task takes an hour: nothing older counts
    assert rate.per_second(500.0 + 3 * RECENT_S) == pytest.approx(1 / RECENT_S, rel=0.01)


def test_an_interrupted_stage_prints_no_final_line():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("collect", total=2, noun="tar shards", stream=stream):
        raise KeyboardInterrupt
    assert stream.getvalue() == "collect: 2 tar shards\n"


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress("visualize", total=4, noun="neurons", stream=stream) as progress:
        progress.advance(4, failed=1)
    assert "4/4" in stream.getvalue()
    assert "1 failed (25.0%)" in stream.getvalue()


def test_a_bar_shows_the_time_left_too():
    clock, stream = Clock(), Terminal()
    with Progress("visualize", total=4, noun="neurons", stream=stream, clock=clock) as progress:
        clock.now_s += 120
        progress.advance(1)
        progress._bar.refresh()
    assert "30.0/h, 6 min 0 s left" in stream.getvalue()
