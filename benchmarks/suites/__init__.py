"""The benchmarks: one file for each command of `python -m benchmarks`."""
