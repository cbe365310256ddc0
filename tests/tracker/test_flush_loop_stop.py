"""How the flush loop stops: it writes what is pending, within its deadline."""

import asyncio

from structlog.testing import capture_logs

from tests.support.flush_loop_rig import NEVER_S, SOON_S, LoopRig
from tests.support.stores import raising
from tracker import StoreUnavailable


async def test_a_stop_that_is_cancelled_itself_counts_the_loss():
    """If every task is cancelled, the stop's own included, the loss is counted."""
    rig = LoopRig(interval_s=NEVER_S)

    async def hang(_chunk: object) -> None:
        await asyncio.Event().wait()

    rig.store.write = hang
    rig.buffer.touch(1)
    caller = asyncio.create_task(rig.loop.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait((caller,))
    assert rig.buffer.dropped["shutdown"] == 1
    assert len(rig.buffer) == 0


async def test_stop_writes_what_is_pending():
    """Nothing that is pending at a normal shutdown is lost."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.buffer.touch(1)
    assert await rig.loop.stop() == 0
    assert rig.store.rows.keys() == {1}


async def test_stop_retries_until_it_succeeds():
    """A store that comes back within the deadline gets everything."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.store.before = raising(StoreUnavailable("away"), StoreUnavailable("away"))
    rig.buffer.touch(1)
    assert await rig.loop.stop() == 0
    assert rig.store.rows.keys() == {1}


async def test_stop_ends_at_its_deadline_and_counts_the_loss():
    """With the store away for good, stop returns, and says how many keys were lost."""
    rig = LoopRig(interval_s=NEVER_S, deadline_s=0.05)

    def fail() -> None:
        raise StoreUnavailable("away")

    rig.store.before = fail
    rig.buffer.touch(1)
    rig.buffer.touch(2)
    with capture_logs() as logs:
        assert await rig.loop.stop() == 2
    assert rig.buffer.dropped["shutdown"] == 2
    assert {
        "event": "flush.lost_at_shutdown",
        "log_level": "error",
        "target": "things",
        "keys": 2,
    } in logs


async def test_stop_ends_at_its_deadline_when_the_store_hangs():
    """A store that never responds does not keep a process from ending."""
    rig = LoopRig(interval_s=SOON_S, deadline_s=0.05)
    hanging = asyncio.Event()

    async def hang(_chunk: object) -> None:
        hanging.set()
        await asyncio.Event().wait()

    rig.store.write = hang
    rig.buffer.touch(1)
    await hanging.wait()
    rig.buffer.touch(2)
    assert await rig.loop.stop() == 2


async def test_stop_is_idempotent_and_may_be_called_at_the_same_time():
    """However often and from wherever stop is called, it returns the same."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.buffer.touch(1)
    results = await asyncio.gather(*(rig.loop.stop() for _ in range(5)))
    results.append(await rig.loop.stop())
    assert results == [0] * 6
    assert rig.store.chunks == [[1]]


async def test_a_cancelled_caller_does_not_interrupt_the_stop():
    """The last flush runs in a task of its own, never in the cancelled one."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.buffer.touch(1)
    caller = asyncio.create_task(rig.loop.stop())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    assert await rig.loop.stop() == 0
    assert rig.store.rows.keys() == {1}


def test_pending_touches_are_written_when_every_task_is_cancelled():
    """asyncio.run cancels all tasks at its end; the loop still writes what is pending."""
    store = None

    async def main() -> None:
        nonlocal store
        rig = LoopRig(interval_s=NEVER_S)
        store = rig.store
        await asyncio.sleep(0)
        rig.buffer.touch(1)

    asyncio.run(main())
    assert store is not None
    assert store.rows.keys() == {1}


async def test_starting_and_stopping_at_random_moments_loses_nothing():
    """Stress: stop comes at any moment of the loop, touches come at any moment of the stop."""
    for turns in range(40):
        rig = LoopRig(interval_s=1e-6)
        for key in range(turns):
            rig.buffer.touch(key)
            await asyncio.sleep(0)
        stopping = asyncio.create_task(rig.loop.stop())
        rig.buffer.touch(turns)
        await stopping
        dropped = rig.buffer.dropped["shutdown"]
        assert len(rig.store.rows) + dropped == turns + 1
        assert len(rig.buffer) == 0
