"""A run on a disk that fills up and turns read-only.

    unshare -rm python -m tests.support.failing_disk_run RECIPE DISK COPY

DISK is an empty folder, where a small file system is mounted in this process's own name space; the kernel's errors are
real ones. After each step its exit code is printed; the finished output, DISK/out, is copied to COPY.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from jobs.cli import main


def mount(disk: str, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)


def run_all(recipe: str, disk: str, copy: str) -> None:
    steps = [
        ("size=400k", "run", []),  # too small
        ("remount,size=64m", "run", ["--until", "targets"]),
        ("remount,ro", "run", []),
        ("remount,rw", "run", []),
    ]
    for options, command, more in steps:
        mount(disk, options)
        print(options, main([command, recipe, "--address", "inline", *more]), flush=True)
        left = [path for path in Path(disk).rglob("*") if path.name.startswith(".partial-")]
        print("left over:", left, flush=True)
    shutil.copytree(Path(disk, "out"), copy)


if __name__ == "__main__":
    run_all(*sys.argv[1:])
