"""The journal: what is pending, on disk, for the process that starts after a crash."""
