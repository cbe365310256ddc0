"""Which orphaned journals are recovered: damaged, foreign and unreadable ones."""

import asyncio
import os
import re

import pytest
from structlog.testing import capture_logs

from tests.support.journal_files import (
    GENEROUS_S,
    NOWHERE,
    events,
    orphan_touches,
    tracker,
)
from tests.support.sample_table import AT
from tracker._journal.format import read_header


def flipped(segment: bytes) -> bytes:
    """Return a segment whose first record has one wrong bit."""
    _, start = read_header(segment)
    return segment[:start] + bytes([segment[start] ^ 1]) + segment[start + 1 :]


@pytest.mark.parametrize(
    ("damage", "event", "kept"),
    [
        (lambda good: good[: len(good) // 2], "journal.recovered", {1, 2}),
        (lambda good: good.rstrip(b"\0")[:-1], "journal.torn", {1}),
        (lambda good: good.rstrip(b"\0") + os.urandom(1000), "journal.torn", {1, 2}),
        (flipped, "journal.torn", set()),
    ],
    ids=["short file", "torn tail", "garbage tail", "flipped"],
)
async def test_a_damaged_tail_is_cut_off_with_a_log_line(tmp_path, damage, event, kept):
    """What was written whole before it is taken over, the rest is gone, and the start goes on."""
    (path,) = await orphan_touches(tmp_path, 1, 2)
    path.write_bytes(damage(path.read_bytes()))
    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            view = running.pending("things")
            assert {key for key in (1, 2) if view.get(key) == AT} == kept
    assert event in events(logs)
    assert not path.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda good: good.replace(b" 1 {", b" 0 {"), "of format b'0'"),
        (lambda good: b"\0" * len(good), "no journal"),
        (lambda _: b"", "no journal"),
        (lambda good: good.replace(b'"things"', b'"others"'), "another configuration: .*'others'"),
        (lambda good: good.replace(b'"origin": "', b'"origin": "0')[:-1], "another database"),
    ],
    ids=["older format", "zeros", "empty", "a target that is gone", "another database"],
)
async def test_a_foreign_journal_is_kept_with_one_log_line(tmp_path, damage, said):
    """At every start, and no start fails by it."""
    (path,) = await orphan_touches(tmp_path, 1)
    foreign = damage(path.read_bytes())
    path.write_bytes(foreign)
    for _ in range(2):
        with capture_logs() as logs:
            async with tracker(NOWHERE, tmp_path).running() as running:
                assert running.recovered == {"things": 0}
                assert running.foreign_segments == 1
        (entry,) = [entry for entry in logs if entry["event"] == "journal.foreign"]
        assert (entry["path"], entry["segments"]) == (str(path.parent), 1)
        assert re.search(said, entry["error"])
        assert path.read_bytes() == foreign


async def test_an_unreadable_segment_does_not_prevent_recovery_of_the_others(tmp_path, monkeypatch):
    """A bad sector in one file, or many files of another table: one line for each reason."""
    first = await orphan_touches(tmp_path, 1)
    (first[0].parent / "00000000.journal").write_text("a bad sector")
    for number in range(3):
        foreign = first[0].parent / f"9000000{number}.journal"
        foreign.write_bytes(first[0].read_bytes().replace(b'"things"', b'"others"'))
    with capture_logs() as logs:
        async with tracker(NOWHERE, tmp_path).running() as running:
            assert running.recovered == {"things": 1}
            assert running.foreign_segments == 4
    foreign_segments = [entry for entry in logs if entry["event"] == "journal.foreign"]
    assert sorted(entry["segments"] for entry in foreign_segments) == [1, 3]


async def test_other_files_in_the_directory_are_not_opened(tmp_path):
    """A pipe would keep the start waiting, and a link may lead to other files."""
    (path,) = await orphan_touches(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.new").touch()
    (tmp_path / "4-deadbeef").symlink_to(elsewhere)
    os.mkfifo(tmp_path / "5-deadbeef")
    os.mkfifo(path.parent / "99999999.journal")
    (path.parent / "99999998.journal").symlink_to(path)
    async with asyncio.timeout(GENEROUS_S), tracker(NOWHERE, tmp_path).running() as running:
        assert running.recovered == {"things": 1}
    assert (elsewhere / "precious.new").exists()
