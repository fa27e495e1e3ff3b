"""A run that is killed at a given write: `python -m tests.support.killed_run RECIPE FRAGMENT_OF_PATH NUMBER`.

The kill comes at the worst moment, between the temporary file and its renaming, and nothing of it runs after that.
"""

import os
import signal
import sys

from jobs.cli import main


def kill_at(fragment: str, number: int) -> None:
    """Let the process be killed at the `number`-th write of a path that contains `fragment`."""
    replace, left = os.replace, [number]

    def replace_or_die(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
        if fragment in os.fspath(path):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(temporary, path)

    os.replace = replace_or_die


if __name__ == "__main__":
    kill_at(sys.argv[2], int(sys.argv[3]))
    sys.exit(main(["run", sys.argv[1], "--address", "inline"]))
