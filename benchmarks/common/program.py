"""Arguments that many benchmarks take, and the line that each prints first."""

import argparse
import os
import sys
import time

import torch


def make_parser(doc: str | None, *, threads: bool = False) -> argparse.ArgumentParser:
    """A parser that prints the docstring of a benchmark as it stands; `threads` adds `--threads`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if threads:
        parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    return parser


def print_header(*settings: str) -> None:
    """One line: what is measured, versions, threads, CPUs, load, date."""
    machine = (
        f"torch {torch.__version__}",
        f"Python {sys.version.split()[0]}",
        f"{torch.get_num_threads()} threads",
        f"{os.cpu_count()} CPUs",
        f"load {os.getloadavg()[0]:.1f}",
        time.strftime("%Y-%m-%d"),
    )
    print(", ".join([*settings, *machine]), flush=True)
