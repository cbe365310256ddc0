"""Some histories of the simulation violate no invariant, and one seed always gives one history."""

import asyncio
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.simulation.command import run_histories
from benchmarks.simulation.history import History
from benchmarks.simulation.ledger import InvariantViolation, Ledger
from benchmarks.simulation.loop import DeadlockError, VirtualLoop
from benchmarks.simulation.server import Server, Transaction
from tests.support.stores import TARGET

HISTORIES = 60
"""They take some three seconds."""


def test_no_invariant_is_violated_in_histories_that_are_always_the_same():
    """The seeds are the first ones, not ones chosen because they pass."""
    outcome = run_histories(range(HISTORIES))
    assert outcome.seed is None, f"seed {outcome.seed}: {outcome.violation}"
    assert outcome.events["flushes"] > 10 * HISTORIES
    assert outcome.events["crashes"] > HISTORIES / 2


def test_random_histories_violate_no_invariant():
    """If a seed fails, the message has the seed and the command that runs it again."""
    first = random.SystemRandom().randrange(1_000_000_000)
    outcome = run_histories(range(first, first + HISTORIES))
    again = f"python -m benchmarks simulate --seed {outcome.seed} --trace"
    assert outcome.seed is None, f"{outcome.violation}; again: {again}"


def fingerprint(seed: int) -> str:
    """Return what is left of all steps of a history when they are hashed."""
    steps = hashlib.sha256()
    History(seed, lambda step: steps.update(step.encode())).run()
    return steps.hexdigest()


def test_a_seed_always_gives_the_same_history():
    """In another process, too, where objects have other addresses and strings other hashes."""
    command = "from tests.tracker.test_simulation import fingerprint; print(fingerprint(7))"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == fingerprint(7) != fingerprint(8)


def test_a_history_restores_the_trackers_constants_and_logs_nothing():
    """Constants are changed while it runs, and nothing is logged."""
    from tracker._flush import batch  # noqa: PLC0415 - as they are now
    from tracker._journal import journal  # noqa: PLC0415

    before = (journal._FEW_KEYS, journal._SLICE_KEYS, batch._SMALLEST_CHUNK_KEYS)
    History(1).run()
    assert before == (journal._FEW_KEYS, journal._SLICE_KEYS, batch._SMALLEST_CHUNK_KEYS)


def test_virtual_time_jumps_to_the_next_timer():
    """An hour takes no time, and the task with the shortest sleep wakes up first."""
    loop = VirtualLoop(random.Random(1))
    woken: list[float] = []

    async def sleep(time_s: float) -> None:
        await asyncio.sleep(time_s)
        woken.append(loop.time())

    async def several() -> None:
        await asyncio.gather(sleep(3600), sleep(1), sleep(60))

    loop.run_until_complete(several())
    loop.close()
    assert woken == [1, 60, 3600]


def test_a_loop_without_timers_raises_instead_of_hanging():
    """Instead of hanging."""
    loop = VirtualLoop(random.Random(1))

    async def wait() -> None:
        await asyncio.Event().wait()

    task = loop.create_task(wait())
    with pytest.raises(DeadlockError):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_transactions_that_wait_for_each_other_are_a_deadlock():
    """One that locks 1 and then 2, and one that does it the other way round."""
    loop = VirtualLoop(random.Random(1))
    server = Server(TARGET, Ledger(loop.time), random.Random(1))
    server.rows = {1: None, 2: None}
    first, second = Transaction(lock_timeout_s=1), Transaction(lock_timeout_s=1)

    async def cross() -> None:
        await server._lock(first, 1)
        await server._lock(second, 2)
        await asyncio.gather(server._lock(first, 2), server._lock(second, 1))

    with pytest.raises(InvariantViolation, match="deadlock"):
        loop.run_until_complete(cross())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_what_is_stored_is_checked():
    """Against the row, against what was touched, and against the server's clock."""
    ledger = Ledger(lambda: 10.0)
    now = ledger.now()
    ledger.touched(1, now + 5, None)
    with pytest.raises(InvariantViolation, match="moves back"):
        ledger.stored(1, now, now - 1)
    with pytest.raises(InvariantViolation, match="later than any touch"):
        ledger.stored(1, None, now + 6)
    with pytest.raises(InvariantViolation, match="later than the server's"):
        ledger.stored(1, None, now + 5)
    ledger.stored(1, None, now)
    assert not ledger.required
