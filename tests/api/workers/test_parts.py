"""The parts of which a service with workers is made: channels, sums of metrics, shares, sockets."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from prometheus_client.metrics_core import Metric

from api.config import LimitSettings, ServerSettings, Settings, SettingsError
from api.http.listener import Listener
from api.workers import process
from api.workers.channel import Channel, ChannelError
from api.workers.merge import (
    LARGEST,
    LARGEST_COUNTERS,
    OF_PARENT,
    SUMMED,
    Totals,
    families_of,
    unsettled,
)
from api.workers.settings import dump_settings, load_dumped, read_again, share_of
from api.workers.sockets import open_sockets
from tests.support.command_line import free_port
from tests.support.service import running


@asynccontextmanager
async def pair(answer):
    """Two ends of a channel; the second one answers."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    asking, answering = Channel(answer), Channel(answer)
    for channel, one in ((asking, ours), (answering, theirs)):
        one.settimeout(0)
        await loop.create_unix_connection(lambda channel=channel: channel, sock=one)
    yield asking, answering
    asking.close()
    answering.close()


async def test_answers_come_to_the_questions_that_they_belong_to():
    """Whatever their order and size."""
    gate = asyncio.Event()

    def answer(what, body):
        async def later():
            await gate.wait()
            return body

        return later() if what == "later" else body

    async with pair(answer) as (channel, _):
        slow = asyncio.create_task(channel.ask("later", "first", deadline_s=30))
        large = "x" * 3_000_000
        assert await channel.ask("now", [large, {"a": 1}], deadline_s=30) == [large, {"a": 1}]
        gate.set()
        assert await slow == "first"


async def test_a_question_without_an_answer_fails_in_time_or_when_the_other_side_ends():
    """Too late, failed, closed: each is the same kind of error."""

    def answer(what, _body):
        if what == "fail":
            raise ValueError("no such thing")
        return asyncio.get_running_loop().create_future()

    async with pair(answer) as (channel, other):
        with pytest.raises(ChannelError, match="within"):
            await channel.ask("wait", deadline_s=0.05)
        with pytest.raises(ChannelError, match="no such thing"):
            await channel.ask("fail", deadline_s=30)
        waiting = asyncio.create_task(channel.ask("wait", deadline_s=30))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ChannelError, match="closed"):
            await waiting
        with pytest.raises(ChannelError, match="closed"):
            await channel.ask("wait", deadline_s=30)


async def test_a_worker_that_hangs_does_not_delay_the_start_of_others(monkeypatch):
    """The start of another worker does not wait for it."""
    monkeypatch.setattr(process, "_TELL_DEADLINE_S", 3600)
    told = asyncio.Event()

    def answer(_what, _body):
        told.set()
        return asyncio.get_running_loop().create_future()

    async with pair(answer) as (channel, _):
        worker = process.WorkerProcess(1, None, channel)
        worker.hangs = True
        async with asyncio.timeout(30):
            await worker.tell_peers({}, {}, died=False, vacant=[])
            await told.wait()


def counted(value: float, gauge: float = 0.0):
    """The metrics of a worker."""
    return [
        ("http_things", "Things.", "counter", [("http_things_total", {"kind": "a"}, value)]),
        ("activity_lag_seconds", "Lag.", "gauge", [("activity_lag_seconds", {}, gauge)]),
        ("http_connections", "Open.", "gauge", [("http_connections", {}, gauge)]),
        (
            "database_table_updates",
            "Of the table.",
            "counter",
            [("database_table_updates_total", {}, value)],
        ),
    ]


def values(metrics: list[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for metric in metrics for sample in metric.samples}


def test_counters_are_summed_with_those_of_workers_that_are_gone():
    """A gauge of a worker that is gone is gone, and what all read from one table counts once.

    It goes back only if the database has: not before another worker has read as much.
    """
    totals = Totals()
    totals.keep(counted(5, gauge=9))
    assert values(list(totals.with_living([counted(1, gauge=2), counted(3, gauge=4)]))) == {
        "http_things_total": 9,
        "activity_lag_seconds": 4,
        "http_connections": 6,
        "database_table_updates_total": 5,
    }
    for read, shown in ((4, 5), (6, 6), (2, 2)):
        now = values(list(totals.with_living([counted(read)])))
        assert now["database_table_updates_total"] == shown
    assert values(list(totals.with_living([])))["http_things_total"] == 5


async def test_every_gauge_is_in_one_list_of_how_it_is_summed(dsn):
    """A new gauge has to be put into one of the lists, and into no two of them."""
    async with running(dsn) as service:
        families = families_of(service.registry)
    gauges = [name for name, _, kind, _ in families if kind in ("gauge", "info")]
    assert len(gauges) > 20
    for name in gauges:
        found = [names for names in (SUMMED, LARGEST, OF_PARENT) if name.startswith(names)]
        assert len(found) == 1, name
    assert [name for name, _, kind, _ in families if kind == "counter"]
    assert all(any(name.startswith(one) for name, *_ in families) for one in LARGEST_COUNTERS)


def test_touches_without_an_outcome_are_counted_by_target():
    """What a worker had not written when it died."""
    families = [
        (
            "",
            "",
            "counter",
            [
                ("activity_touches_total", {"target": "devices"}, 10.0),
                ("activity_touches_coalesced_total", {"target": "devices"}, 3.0),
                ("activity_touches_dropped_total", {"target": "devices", "reason": "x"}, 1.0),
                ("activity_flush_keys_total", {"target": "devices", "outcome": "written"}, 2.0),
            ],
        )
    ]
    assert unsettled(families) == {"devices": 4.0}


def test_a_worker_gets_its_share_of_what_is_for_the_whole_service():
    """Connections, streams, bytes; never less than one can work with."""
    settings = Settings(
        server=ServerSettings(max_connections=10), limits=LimitSettings(reads=2, reads_per_key=2)
    )
    share = share_of(settings, 4)
    assert share.server.max_connections == 3
    assert share.live.max_streams == settings.live.max_streams / 4
    assert share.database.pool_size == 3
    assert share.ingest.batches_in_flight <= share.database.pool_size
    assert share.limits.unsent_bytes == settings.limits.unsent_bytes / 4
    assert share.limits.reads_per_key == share.limits.reads == 1
    Settings(**dump_settings(share_of(settings, 256)))  # the relations hold
    assert load_dumped(dump_settings(settings)) == settings


def test_a_reload_rejects_another_number_of_workers(tmp_path):
    """Unless the command line gave the number: then that of the file does not count."""
    file = tmp_path / "config.toml"
    file.write_text("[server]\nworkers = 3\n")
    with pytest.raises(SettingsError, match="workers has changed"):
        read_again(str(file), workers=2, configured=2)
    assert read_again(str(file), workers=2, configured=None).server.workers == 2
    file.write_text("[server]\nworkers = 0\n")
    assert read_again(str(file), workers=2, configured=0).server.workers == 2


async def test_connections_wait_for_the_next_worker_of_a_place():
    """The queue of a socket outlives the process that accepts from it, so the parent keeps it."""
    listener = Listener("api", "127.0.0.1", free_port(), max_connections=1)
    ((one,), (two,)) = open_sockets(listener, 2)
    clients = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]
    accepted = 0
    for sock in (one, two):
        copy = sock.dup()  # as a worker has it
        copy.close()
        sock.settimeout(0)
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            accepted += 1
    assert accepted == len(clients)
    for sock in (one, two, *clients):
        sock.close()
