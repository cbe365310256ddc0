"""Many writers, one server and one disk in virtual time, where everything fails on command.

The tracker's own code runs here, unmodified, from the flusher down to the statements that it sends
and the segments that it writes. One seed is one history, the same each time. The idea is that of
FoundationDB's simulator: "FoundationDB: A Distributed Unbundled Transactional Key Value Store",
section 4.
"""
