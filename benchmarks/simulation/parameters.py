"""Makes the tracker's constants small, so that a few keys reach limits that else need thousands.

FoundationDB does the same and calls these parameters knobs.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

_PARAMETERS: Final[dict[str, tuple[int, ...]]] = {
    "tracker._journal.recovery._SLICE_KEYS": (1, 3, 1000),
    "tracker._buffer.buffer._FEW_KEYS": (1, 4, 10_000),
    "tracker._journal.journal._FEW_KEYS": (1, 4, 1000),
    "tracker._journal.journal._SLICE_KEYS": (1, 3, 1000),
    "tracker._journal.journal._RETRY_S": (1,),
    "tracker._flush.order._KEYS_PER_BOUND": (1, 2, 8),
    "tracker._flush.order._SLICE_KEYS": (1, 3, 1000),
    "tracker._flush.batch._MAX_REJECTED_KEYS": (2, 100),
    "tracker._flush.batch._SMALLEST_CHUNK_KEYS": (1, 2, 50),
}


@contextmanager
def small_parameters(rng: random.Random) -> Iterator[None]:
    """Set all parameters while the block runs."""
    before = []
    for name, values in _PARAMETERS.items():
        path, _, constant = name.rpartition(".")
        module = import_module(path)
        before.append((module, constant, getattr(module, constant)))
        setattr(module, constant, rng.choice(values))
    try:
        yield
    finally:
        for module, constant, value in before:
            setattr(module, constant, value)
