"""The journal's format: what was written whole is read, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.untimed import UNTIMED
from tracker._journal.format import Segment, UnreadableJournal, header, read, read_header

OWNER = {"target": "things", "database": "Größe"}
LINE = header(OWNER)
HEAD_BYTES = 12
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SECONDS = st.integers(min_value=0, max_value=(1 << 32) - 1)
TOUCHES = st.lists(st.tuples(KEYS, SECONDS), max_size=20)


def written(touches: list[tuple[str, int]], spare_bytes: int = 64) -> tuple[bytearray, list[int]]:
    """Return a segment, and where each record ends."""
    segment = Segment("", bytearray(100 * 20 + spare_bytes * 100), 0)
    ends = [0]
    for key, second in touches:
        assert segment.append(key, second)
        ends.append(ends[-1] + HEAD_BYTES + len(key.encode()))
    return segment.memory, ends


def latest(touches: list[tuple[str, int]]) -> dict[str, int]:
    model: dict[str, int] = {}
    for key, second in touches:
        model[key] = max(model.get(key, 0), second)
    return model


@UNTIMED
@given(TOUCHES)
def test_what_is_written_is_read(touches):
    """Any keys, the empty one and the epoch included; the latest second of each."""
    memory, _ = written(touches)
    contents = read(memory, 0)
    assert (contents.entries, contents.torn_bytes) == (latest(touches), 0)


@UNTIMED
@given(TOUCHES, st.data())
def test_a_torn_record_costs_only_itself(touches, data):
    """However much of the last record made it to the disk, the ones before it are read."""
    memory, ends = written([*touches, ("the last one", 7)])
    cut = data.draw(st.integers(min_value=ends[-2], max_value=ends[-1] - 1))
    memory[cut:] = bytes(len(memory) - cut)
    assert read(memory, 0).entries == latest(touches)


@UNTIMED
@given(TOUCHES, st.binary(min_size=1, max_size=200))
def test_garbage_at_the_end_is_ignored(touches, garbage):
    """Bytes that are no record are no touches."""
    memory, ends = written(touches)
    memory[ends[-1] : ends[-1] + len(garbage)] = garbage
    contents = read(memory, 0)
    assert contents.entries == latest(touches)
    assert (contents.torn_bytes > 0) == (garbage[:HEAD_BYTES].strip(b"\0") != b"")


@UNTIMED
@given(TOUCHES.filter(bool), st.data())
def test_a_flipped_bit_is_noticed(touches, data):
    """A record with a wrong checksum is not read, nor what follows it."""
    memory, ends = written(touches)
    which = data.draw(st.integers(min_value=0, max_value=len(touches) - 1))
    at = data.draw(st.integers(min_value=ends[which], max_value=ends[which + 1] - 1))
    memory[at] ^= 1 << data.draw(st.integers(min_value=0, max_value=7))
    contents = read(memory, 0)
    assert contents.entries == latest(touches[:which])
    assert contents.torn_bytes


@UNTIMED
@given(st.integers(min_value=0, max_value=60), KEYS)
def test_a_record_that_does_not_fit_is_not_written(size, key):
    """A segment that is full stays as it is."""
    segment = Segment("", bytearray(size), 0)
    there_is_room = HEAD_BYTES + len(key.encode()) <= size
    assert segment.append(key, 7) == there_is_room
    assert any(segment.memory) == there_is_room
    assert read(segment.memory, 0).torn_bytes == 0


@pytest.mark.parametrize(("given", "text"), [(42, "42"), (-(1 << 63), str(-(1 << 63))), (1.0, "1")])
def test_a_number_is_written_in_its_canonical_form(given, text):
    """A key that equals one in the buffer may come in any type."""
    segment = Segment("", bytearray(100), 0)
    segment.append(given, 7)
    assert read(segment.memory, 0).entries == {text: 7}


def test_a_second_beyond_the_format_is_stored_as_the_largest():
    """A clock that is off by a century keeps no touch out of the journal."""
    segment = Segment("", bytearray(100), 0)
    segment.append("a", 1 << 39)
    assert read(segment.memory, 0).entries == {"a": (1 << 32) - 1}


def test_a_header_names_the_owner_of_the_touches():
    """And where they begin."""
    assert read_header(LINE.ljust(1000, b"\0")) == (OWNER, len(LINE))


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (b"", "no journal"),
        (bytes(5000), "no journal"),
        (b"\xff" * 5000, "no journal"),
        (LINE.replace(b" 1 ", b" 0 "), "format b'0'"),
        (LINE.replace(b" 1 ", b" 2 "), "format b'2'"),
        (LINE[:-5] + b"\n", "damaged"),
        (LINE[:-1].ljust(5000, b"\0"), "no journal"),
        (LINE.replace(b"{", b"[{").replace(b"}", b"}]"), "damaged"),
        (b"activity-journal 1 7\n", "damaged"),
        (b"activity-journal 1 \xff\n", "damaged"),
        (b"activity-journal 1 " + b"[" * 4000 + b"\n", "damaged"),
    ],
)
def test_files_of_another_format_are_not_read_as_segments(memory, said):
    """An older format, a damaged header, another program's file."""
    with pytest.raises(UnreadableJournal, match=said):
        read_header(memory)
