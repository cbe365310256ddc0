"""Simulates many writers, one server and one disk in virtual time, with faults from a seed.

The tracker's own code runs here, unmodified, from the flusher down to the statements that it sends
and the segments that it writes. A seed determines the whole history. The idea is that of
FoundationDB's simulator: "FoundationDB: A Distributed Unbundled Transactional Key Value Store",
section 4.
"""
