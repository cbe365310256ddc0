"""Several processes behind one port: a parent starts, watches and replaces workers.

The parent serves no request. It owns the listening sockets, one for each worker and address, so a
socket outlives the worker that accepts from it. Each worker is the whole service; it asks its
siblings for what they alone know: touches that are not written yet. Metrics are summed by the
parent, which keeps the counters of workers that are gone.

From the command to the worker: `parent` -> `process` -> `worker` -> `api.serving`.
"""
