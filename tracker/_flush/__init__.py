"""Flushing: writes what is pending in a buffer to its table.

Each part decides one thing:

- `loop.FlushLoop`: *when* to flush.
- `flusher.Flusher`: one flush from drain to settle, and the counts of each key's outcome.
- `batch.BatchProgress`: *which chunk* comes next, and what must be restored.
- `order.by_region`: in which order the keys of a batch are written.
- `store.Store`: how one chunk gets to the table, and the `ChunkResult` with its outcome.
"""
