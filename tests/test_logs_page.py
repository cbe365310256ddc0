"""The page of log events tells all of them, and nothing else."""

import re
from pathlib import Path

from tests.log_events import Event, events
from tests.stores import TARGET
from tracker.buffer import Buffer

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "api" / "monitoring" / "LOGS.md").read_text()
LOGGED = events(ROOT / "api", ROOT / "tracker")


def on_the_page() -> set[Event]:
    """Return the events of the page's tables."""
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \|([^|]*)\|", PAGE, re.MULTILINE)
    return {
        Event(name, level, frozenset(re.findall(r"`(\w+)`", fields)))
        for name, level, fields in rows
    }


def test_every_event_is_on_the_page_with_its_level_and_its_fields():
    """What operators match on does not change unnoticed; the source is read, so none is missed."""
    (dropped,) = (event for event in LOGGED if "*" in event.fields)
    reasons = Buffer(TARGET).dropped.keys()
    named = Event("touches.dropped", dropped.level, frozenset(dropped.fields - {"*"} | reasons))
    assert on_the_page() == LOGGED - {dropped} | {named}


def test_all_that_is_logged_is_logged_through_log():
    """The name by which calls are found in the source; what it stands for knows no event itself."""
    for path in [*(ROOT / "api").rglob("*.py"), *(ROOT / "tracker").rglob("*.py")]:
        source = path.read_text()
        made = re.findall(r"^.*\b(?:get_logger|Log)\(.*$", source, re.MULTILINE)
        if path != ROOT / "tracker" / "logs.py":
            assert all(re.match(r"log: .* = [\w.]+\(__name__\)$", line) for line in made), path
        assert not re.search(r"\blogging\.(debug|info|warning|error|exception|critical)\(", source)


def test_names_of_events_are_dotted():
    """A part of the service, and what happened to it."""
    assert {
        event.name for event in LOGGED if not re.fullmatch(r"[a-z]+\.[a-z_]+", event.name)
    } == set()
