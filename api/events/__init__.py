"""Stored events of devices, and how they are read.

An event is written to the outbox in the transaction of its change. `sequencer` moves it to the log,
where it gets its position; `feed` notifies this process of new ones; `log` reads pages of them.
"""
