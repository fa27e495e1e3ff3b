"""Progress: plain lines without a terminal, a bar with one."""

import io

import pytest

from jobs.progress import PLAIN_LINE_EVERY_S, Progress, format_bytes, format_duration


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
        "visualize: 11/40 neurons, 1.00/s, 29 s left, 2 failed",
        "visualize: 40/40 neurons, 2.00/s, 20 s, 2 failed",
    ]


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
    assert "neurons/s, 1 failed" in stream.getvalue()
