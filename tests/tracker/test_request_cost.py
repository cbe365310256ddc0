"""What tracking costs a request and a flush, counted instead of timed, so that it cannot grow."""

import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import api
import tracker
from api.access.authentication import ACTIVE, active_keys, note_active
from api.config import Settings
from api.targets import DEVICES, targets
from tests.support import heartbeat_path
from tests.support.sample_table import AT
from tracker import Target, Tracker, activity_middleware
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres._store import PostgresStore

MAX_RATIO = 7.5 if sys.version_info < (3, 12) else 5.3
"""Instructions of a heartbeat's tracking, as a multiple of those of two `bare_touch` calls.

It is 6.1 on Python 3.11 and 4.3 on 3.13, where bytecode is finer for calls than for comparisons.
"""
MAX_PATH_RATIO = 1.32
"""Instructions of a heartbeat's whole path, as a multiple of those of a bare application.

It is 1.27 on Python 3.11, and less on 3.12 and 3.13.
"""
OURS = (str(Path(tracker.__file__).parent), str(Path(api.__file__).parent))


@pytest.fixture
def tracking() -> Tracker:
    """A tracker as the service has it, that has seen one device and one key."""
    return Tracker(targets(Settings().tracker), dsn="postgresql://never.asked/for")


def heartbeat(tracking: Tracker):
    """Return what runs the tracking of a heartbeat that has been authenticated and handled."""
    request = make_mocked_request("POST", "/")
    request[ACTIVE] = [("api_keys", 7)]
    note_active(request, str(uuid.UUID(int=1)))
    response = web.Response(status=204)
    track = activity_middleware(tracking, active_keys)

    async def handle(_request: web.Request) -> web.Response:
        return response

    def run() -> None:
        # If anything in there awaited, send() would return instead of raising StopIteration.
        with pytest.raises(StopIteration) as ended:
            track(request, handle).send(None)
        assert ended.value.value is response

    return run


def bare_touch(seen: dict[str, int], key: str, second: int) -> None:
    """Do the least that a touch can do: the measure for an interpreter, whose bytecode varies."""
    if (before := seen.get(key)) is None or before < second:
        seen[key] = second


def instructions(run, paths: tuple[str, ...]) -> int:
    """Count the bytecode instructions that a call executes in files below some paths."""
    executed: list[str] = []
    if sys.version_info >= (3, 12):  # tracing misses instructions of frames that run already
        _monitor(run, executed.append)
    else:
        _trace(run, executed.append)
    return sum(path.startswith(paths) for path in executed)


def _monitor(run, note: Callable[[str], None]) -> None:
    monitoring = sys.monitoring
    tool, instruction = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, "instructions")
    monitoring.register_callback(tool, instruction, lambda code, _: note(code.co_filename))
    monitoring.set_events(tool, instruction)
    try:
        run()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, instruction, None)
        monitoring.free_tool_id(tool)


def _trace(run, note: Callable[[str], None]) -> None:
    def trace(frame, event, _argument):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            note(frame.f_code.co_filename)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)


def test_tracking_a_heartbeat_waits_for_nothing_and_takes_few_instructions(tracking):
    """Two touches, of a known device and a known API key, between the handler and the response."""
    seen = {"device": AT, "key": AT}

    def bare() -> None:
        bare_touch(seen, "device", AT)
        bare_touch(seen, "key", AT)

    run = heartbeat(tracking)
    run()
    ours, least = instructions(run, OURS), instructions(bare, (__file__,))
    assert least > 10
    assert 2 < ours / least <= MAX_RATIO, f"{ours} instructions, {least} of bare touches"
    assert tracking.buffers[DEVICES].touches == tracking.buffers["api_keys"].touches == 2


def test_the_whole_path_of_a_heartbeat_takes_few_instructions(tracking):
    """From received bytes to sent bytes, compared with aiohttp alone: routes, limits, access."""
    everything = (*OURS, str(Path(aiohttp.__file__).parent), str(Path(yarl.__file__).parent))
    counts = []
    for path in (heartbeat_path.bare(), heartbeat_path.ours(None), heartbeat_path.ours(tracking)):
        with path as service:
            for _ in range(3):
                assert service.heartbeat().startswith(b"HTTP/1.1 204 No Content\r\n")
            counts.append(instructions(service.heartbeat, everything))
    bare, untracked, ours = counts
    assert bare > 200
    assert ours / bare <= MAX_PATH_RATIO, f"{ours} instructions, {bare} of a bare application"
    assert untracked < ours
    assert tracking.buffers[DEVICES].touches == tracking.buffers["api_keys"].touches == 4


def test_a_heartbeat_leaves_nothing_in_memory(tracking):
    """A thousand of a known device and a known API key."""
    with heartbeat_path.ours(tracking) as service:
        for _ in range(100):
            service.heartbeat()
        blocks = sys.getallocatedblocks()
        for _ in range(1000):
            service.heartbeat()
        assert sys.getallocatedblocks() - blocks < 100


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
    buffer = Buffer(tracking.buffers["api_keys"].target, clock=lambda: float(AT))
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
