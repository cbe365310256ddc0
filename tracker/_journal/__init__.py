"""The journal: pending touches on disk, so that another process can recover them after a crash.

- `journal.Journal`: the append-only log of one buffer.
- `supply.SegmentSupply`: makes the segments that a journal needs next, and removes those it freed.
- `format`: what a segment looks like.
- `storage`: what journals need of a disk, as protocols; `directory` and `orphans` are the real one.
- `lifecycle.open_journals`: gives each buffer a journal while a process runs.
- `recovery.JournalRecovery`: takes over the journals of processes that are gone.
"""
