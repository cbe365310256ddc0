"""The faults in the service's environment. Each begins, lasts some seconds, and is undone."""

from benchmarks.faults import network, process, server, tables
from benchmarks.faults.fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "network", "process", "server", "tables"]
