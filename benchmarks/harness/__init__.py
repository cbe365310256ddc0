"""Shared parts of the benchmarks: databases, contenders, load, paired measurements and reports."""
