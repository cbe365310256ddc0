"""What benchmarks share: a database for each contender, load, measuring in pairs, and reports."""
