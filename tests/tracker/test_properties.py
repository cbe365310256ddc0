"""Random histories with faults, against the plainest model there is: the latest second per key."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.stores import FlushRig, raising
from tracker import StoreError, StoreMisconfigured, StoreTimeout, StoreUnavailable

KEYS = st.integers(min_value=0, max_value=12)
ERRORS = st.sampled_from(
    [StoreUnavailable("away"), StoreTimeout("slow"), StoreMisconfigured("bad")]
)


class BufferAndFlush(RuleBasedStateMachine):
    """Touches, flushes that fail in every way, and a clock that goes where it likes."""

    @initialize(chunk_keys=st.integers(min_value=1, max_value=8))
    def start(self, chunk_keys: int) -> None:
        self.rig = FlushRig(chunk_keys)
        self.clock, self.buffer = self.rig.clock, self.rig.buffer
        self.store, self.flusher = self.rig.store, self.rig.flusher
        self.model: dict[object, int] = {}
        self.stored_before: dict[object, int] = {}
        self.runner = asyncio.Runner()
        self.running: asyncio.Task[int] | None = None

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()

    def run(self, steps: int) -> None:
        """Let the event loop turn a few times."""

        async def turn() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        self.runner.run(turn())

    @rule(key=KEYS, step=st.integers(min_value=-5, max_value=5))
    def touch(self, key: int, step: int) -> None:
        self.clock.now += step
        self.buffer.touch(key)
        self.model[key] = max(self.model.get(key, 0), int(self.clock.now))

    @rule(turns=st.integers(min_value=0, max_value=5))
    def flush_slowly(self, turns: int) -> None:
        """Start a flush and leave it somewhere in the middle."""
        if self.running is None or self.running.done():

            async def start() -> asyncio.Task[int]:
                return asyncio.create_task(self.flusher.flush())

            self.running = self.runner.run(start())
        self.run(turns)

    @rule(turns=st.integers(min_value=0, max_value=5))
    def cancel(self, turns: int) -> None:
        """Cancel the flush at whatever await it has come to."""
        self.flush_slowly(turns)
        assert self.running is not None
        self.running.cancel()
        self.finish()

    @rule()
    def finish(self) -> None:
        if self.running is not None:
            running = self.running

            async def wait() -> None:
                await asyncio.wait((running,))

            self.runner.run(wait())
            if not running.cancelled() and (error := running.exception()):
                assert isinstance(error, StoreError), error
        self.store.before = self.store.after = raising()

    @rule(error=ERRORS, after=st.integers(min_value=0, max_value=3))
    def fail(self, error: StoreError, after: int) -> None:
        """Make a chunk of the next flush fail."""
        self.store.before = raising(*[None] * after, error)

    @rule(error=ERRORS, after=st.integers(min_value=0, max_value=3))
    def fail_after_the_commit(self, error: StoreError, after: int) -> None:
        """Make a chunk's answer get lost."""
        self.store.after = raising(*[None] * after, error)

    @rule(keys=st.sets(KEYS, max_size=3))
    def lock(self, keys: set[int]) -> None:
        self.store.locked = set(keys)

    @rule(at_most=st.none() | st.integers(min_value=1, max_value=8))
    def slow_down(self, at_most: int | None) -> None:
        """Let chunks of more keys than this take too long."""
        self.store.at_most = at_most

    @invariant()
    def nothing_is_lost(self) -> None:
        """What is pending, in flight included, laid over what is stored is the model."""
        if not hasattr(self, "buffer"):
            return
        view = self.buffer.view()
        shown = {key: max(view.get(key) or 0, self.store.rows.get(key, 0)) for key in self.model}
        assert shown == self.model

    @invariant()
    def nothing_moves_back(self) -> None:
        if not hasattr(self, "buffer"):
            return
        for key, at in self.stored_before.items():
            assert self.store.rows[key] >= at
        self.stored_before = dict(self.store.rows)

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "buffer") or (self.running and not self.running.done()):
            return
        self.rig.assert_books_balance()

    @rule()
    def in_the_end_everything_is_stored(self) -> None:
        self.finish()
        self.store.locked = set()
        self.store.at_most = None
        self.runner.run(self.flusher.flush())
        assert self.store.rows == self.model


TestBufferAndFlush = BufferAndFlush.TestCase
TestBufferAndFlush.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
