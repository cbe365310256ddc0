"""Never slower by accident: what tracking does for a request and a flush, counted, not timed."""

import sys
import uuid
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import api
import tracker
from api.access.authentication import ACTIVE, DEVICES, KEYS, note_active, who_was_active
from api.app import targets
from api.config import Settings
from tests.support.sample_table import AT
from tracker import Target, Tracker, activity_middleware
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres._store import PostgresStore

MOST_INSTRUCTIONS = 210
"""Of a heartbeat's tracking, with some room for other versions of Python: 3.11 takes 169."""
OURS = (str(Path(tracker.__file__).parent), str(Path(api.__file__).parent))


@pytest.fixture
def tracking() -> Tracker:
    """A tracker as the service has it, that has seen one device and one key."""
    return Tracker(targets(Settings().tracker), dsn="postgresql://never.asked/for")


def heartbeat(tracking: Tracker):
    """Return what runs the tracking of a heartbeat that has been authenticated and handled."""
    request = make_mocked_request("POST", "/")
    request[ACTIVE] = [(KEYS, 7)]
    note_active(request, str(uuid.UUID(int=1)))
    response = web.Response(status=204)
    track = activity_middleware(tracking, who_was_active)

    async def handle(_request: web.Request) -> web.Response:
        return response

    def run() -> None:
        # Whatever waits for anything comes back from here without an answer.
        with pytest.raises(StopIteration) as ended:
            track(request, handle).send(None)
        assert ended.value.value is response

    return run


def instructions(run) -> int:
    """Count the bytecode instructions of ours that a call executes."""
    count = 0

    def in_ours(_frame, event, _argument):
        nonlocal count
        count += event == "opcode"
        return in_ours

    def enter(frame, _event, _argument):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return in_ours

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def test_tracking_a_heartbeat_waits_for_nothing_and_takes_few_instructions(tracking):
    """Two touches, of a device and of a key that are known, between the handler and the answer."""
    run = heartbeat(tracking)
    run()
    assert 100 < instructions(run) <= MOST_INSTRUCTIONS
    assert tracking.buffers[DEVICES].touches == tracking.buffers[KEYS].touches == 2


def test_a_touch_in_a_second_that_is_known_allocates_nothing(tracking):
    """Ten thousand touches of one key leave no object behind."""
    buffer = Buffer(tracking.buffers[DEVICES].target, clock=lambda: float(AT))
    key = str(uuid.UUID(int=1))
    buffer.touch(key)
    blocks = sys.getallocatedblocks()
    for _ in range(10_000):
        buffer.touch(key)
    assert sys.getallocatedblocks() - blocks < 100


def test_keys_that_are_touched_together_share_their_second(tracking):
    """A million of them hold one integer, not a million."""
    buffer = Buffer(tracking.buffers[KEYS].target, clock=lambda: float(AT))
    for key in range(100):
        buffer.touch(key)
    assert len({id(second) for second in buffer.drain().values()}) == 1


async def test_a_flush_sends_three_statements_for_each_chunk(dsn, db):
    """However many keys: begin, one UPDATE, commit; what was not written costs one more."""
    await db.execute("CREATE TABLE things (id bigint PRIMARY KEY, seen_at timestamptz)")
    await db.execute("INSERT INTO things SELECT generate_series(1, 1000)")
    target = Target(name="t", table="things", key_column="id", column="seen_at", key_type="bigint")
    sent: list[str] = []

    async def listen(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(lambda query: sent.append(query.query.split()[0]))

    async def keep(_connection: asyncpg.Connection) -> None:
        """As the tracker's own pool does: no statement to reset a session."""

    pool = asyncpg.create_pool(dsn, min_size=1, max_size=1, init=listen, reset=keep)
    async with pool:
        store = PostgresStore(pool, target, statement_timeout_s=5, lock_timeout_s=0.2)
        flusher = Flusher(Buffer(target), store, chunk_keys=250)
        for at, keys, expected in (
            (AT, range(1, 2), None),  # on a new connection the driver asks for types
            (AT + 1, range(1, 1001), ["BEGIN", "WITH", "COMMIT"] * 4),
            (AT + 2, range(991, 1011), ["BEGIN", "WITH", "WITH", "COMMIT"]),
        ):
            for key in keys:
                flusher.buffer.touch(key, at=at)
            sent.clear()
            await flusher.flush()
            assert expected in (None, sent)
        assert (flusher.counts.written, flusher.counts.missing) == (1011, 10)
