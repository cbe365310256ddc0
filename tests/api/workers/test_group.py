"""The order in which the parent starts, notifies and ends workers; with fakes that record it."""

from itertools import count

import pytest

from api.config import ServerSettings, Settings
from api.workers import group as module
from api.workers.group import WorkerGroup
from api.workers.process import StartError
from api.workers.run_dir import RunDirectory
from api.workers.slots import Slot

PIDS = count(1)


class NotingWorker:
    """A worker that records its commands."""

    def __init__(self, notes=None, *, fails=False):
        self.pid = self.number = next(PIDS)
        self.path = f"{self.pid}.sock"
        self.hangs = self.is_stopped = self.has_told_all = False
        self.metrics, self.vacant, self.peers = [], [], {}
        self._notes = [] if notes is None else notes
        self._fails = fails

    async def start(self, options):
        return options["settings"]

    async def accept(self):
        self._notes.append((self.pid, "accepts"))
        if self._fails:
            raise StartError("no")

    async def tell_peers(self, peers, _warnings, *, died, vacant):
        del died
        self.peers, self.vacant = peers, vacant

    async def ping(self):
        self.hangs = self.is_stopped

    async def stop(self, **_options):
        self._notes.append((self.pid, "stops"))

    async def ended(self):
        return "exit 0"

    def kill(self):
        pass


def group_of(*workers) -> WorkerGroup:
    """Return a group with these workers, each in its place."""
    slots = [Slot(number + 1, {}) for number in range(len(workers))]
    for slot, worker in zip(slots, workers, strict=True):
        slot.worker = worker
    return WorkerGroup(Settings(), None, "", slots, RunDirectory(ServerSettings()))


@pytest.fixture
def next_worker(monkeypatch):
    """Let a group start the worker that is put into this list."""
    workers = []

    async def spawn(*_arguments):
        return workers.pop()

    monkeypatch.setattr(module, "spawn", spawn)
    return workers


async def test_a_reload_stops_a_worker_when_the_new_one_accepts(next_worker):
    """And not before, or its place would have no worker for seconds."""
    notes = []
    old, new = NotingWorker(notes), NotingWorker(notes)
    workers = group_of(old, NotingWorker())
    next_worker.append(new)
    await workers.replace(workers.slots[0], read_settings=False)
    assert notes == [(new.pid, "accepts"), (old.pid, "stops")]
    assert workers.slots[0].worker is new
    assert old.path not in workers.slots[1].worker.peers


async def test_a_worker_stays_if_the_new_one_cannot_start(next_worker):
    """It gets no command, and stays in its place."""
    notes = []
    old, new = NotingWorker(notes), NotingWorker(notes, fails=True)
    workers = group_of(old, NotingWorker())
    next_worker.append(new)
    with pytest.raises(StartError):
        await workers.replace(workers.slots[0], read_settings=False)
    assert notes == [(new.pid, "accepts")]
    assert workers.slots[0].worker is old


async def test_one_worker_accepts_the_connections_of_those_that_died_or_hang(next_worker):
    """Until they are back: no connection waits in the queue of a place without a worker."""
    first, second, third = NotingWorker(), NotingWorker(), NotingWorker()
    workers = group_of(first, second, third)
    second.is_stopped = True
    await workers.ping()
    assert (first.vacant, second.vacant, third.vacant) == ([2], [], [])
    await workers.note_death(workers.slots[0])
    assert (second.vacant, third.vacant) == ([], [1, 2])
    second.is_stopped = False
    await workers.ping()
    assert (second.vacant, third.vacant) == ([1], [])
    new = NotingWorker()
    next_worker.append(new)
    await workers.start(workers.slots[0])
    assert (new.vacant, second.vacant, third.vacant) == ([], [], [])
    assert set(new.peers) == {second.path, third.path}
