"""Finds devices that have gone offline.

A device that comes back is found by a trigger of the table, in the transaction of its touch. One
that falls silent is found here: `Watcher` keeps when each device would be offline, reads its row
again when that time comes, and changes its state under a lock. Every process does so for all
devices: there is no owner, and it makes no difference which one comes first.

Silence counts only while some process was listening: see `Listening`.
"""
