"""Programs that measure the project. From the repository root: `python -m benchmarks.NAME --help`."""
