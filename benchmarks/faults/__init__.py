"""What can go wrong around the service, one by one: each begins, lasts a while, and is mended."""

from benchmarks.faults import network, process, server, tables
from benchmarks.faults.fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "network", "process", "server", "tables"]
