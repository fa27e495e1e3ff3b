"""`neuron-atlas` that makes targets and pictures side by side without any GPU: `python -m tests.side_by_side run …`."""

import sys

from jobs import overlap
from jobs.cli import main

if __name__ == "__main__":
    overlap.has_own_processors = lambda session: True
    sys.exit(main(sys.argv[1:]))
