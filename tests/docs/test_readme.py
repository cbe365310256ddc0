"""The README fits on a screen or two, shows both commands, and its example runs as it stands."""

import re
import sys

from tests.support.examples import running_command
from tests.support.markdown import PAGES
from tests.support.raw_client import free_port

README = PAGES["README.md"]


def test_the_readme_is_short_and_starts_with_the_commands():
    """Each command is in a code block of its own: the first one does not return."""
    assert len(README.text.splitlines()) <= 120
    assert [snippet.text for snippet in README.snippets("sh")][:2] == ["make demo\n", "make test\n"]


def test_the_readme_defines_its_words_with_links_to_the_glossary():
    """Touch, target, coalesce, overlay and lag, each where it is first used."""
    glossary = PAGES["docs/glossary.md"].anchors()
    defined = re.findall(r"\*\*\[(\w+)\]\(docs/glossary\.md#(\w+)\)\*\*", README.text)
    assert [word.lower() for word, _ in defined] == [
        "touch",
        "target",
        "coalesce",
        "lag",
        "overlay",
    ]
    assert {anchor for _, anchor in defined} <= glossary


async def test_the_example_runs_as_it_stands(dsn, db, tmp_path):
    """Fifteen lines; a request is a touch, which the table has after SIGTERM."""
    (code,) = README.snippets("python")
    assert len([line for line in code.text.splitlines() if line.strip()]) <= 15
    await db.execute("CREATE TABLE users (id bigint PRIMARY KEY, last_seen timestamptz)")
    await db.execute("INSERT INTO users VALUES (7), (8)")
    program, port = tmp_path / "app.py", free_port()
    assert "port=8000" in code.text
    program.write_text(code.text.replace("port=8000", f"port={port}"))
    command = [sys.executable, str(program)]
    async with running_command(command, dsn, port) as example:
        assert await example.get("/", {}) == (200, "Hello\n")
        assert await example.get("/", {"X-User-ID": "7"}) == (200, "Hello\n")
    assert await db.fetchval("SELECT array_agg(id) FROM users WHERE last_seen IS NOT NULL") == [7]
