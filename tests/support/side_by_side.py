"""`neuron-atlas` that makes targets and visualizations side by side without any GPU."""

import sys

from jobs.cli import main
from jobs.stages import pipelined

if __name__ == "__main__":
    pipelined.has_own_processors = lambda session: True
    sys.exit(main(sys.argv[1:]))
