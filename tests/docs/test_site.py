"""The site of the documentation builds without a warning, and loads nothing from another host."""

import html.parser
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.markdown import PAGES, ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
NOT_IN_THE_SITE = ("tests/",)
LOADED = {"link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src"}
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("furo") is None,
    reason="Sphinx is not installed: run `make install`",
)


class Loads(html.parser.HTMLParser):
    """Collects what a page loads, links that a reader follows excepted."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if value and name == LOADED.get(tag)]


def loads(text: str) -> list[str]:
    """Return the addresses that a page loads."""
    page = Loads()
    page.feed(text)
    return page.found


def loads_of_style(text: str) -> list[str]:
    """Return the addresses that a style sheet loads."""
    return re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")]+)", text)


def is_elsewhere(address: str) -> bool:
    """Return whether an address is of another host."""
    return re.match(r"(\w+:)?//", address) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site with the command of `make docs`."""
    (command,) = re.findall(r"-m sphinx .*", MAKEFILE)
    folder = tmp_path_factory.mktemp("site")
    words = [str(folder) if word == "site" else word for word in command.split()[2:]]
    words += ["-d", str(tmp_path_factory.mktemp("doctrees"))]
    assert "-W" in words
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> Iterator[tuple[str, str]]:
    """Return name and text of each page."""
    for path in site.rglob("*.html"):
        yield path.relative_to(site).as_posix(), path.read_text()


def test_the_site_has_every_page_and_a_search(site):
    """At the same paths as in the repository, from a first page at the top."""
    for name in PAGES:
        if not name.startswith(NOT_IN_THE_SITE):
            assert (site / name).with_suffix(".html").exists(), name
    assert (site / "index.html").exists()
    index = (site / "searchindex.js").read_text()
    assert "coalesce" in index


def test_the_site_loads_nothing_from_another_host(site):
    """No font, style, script or picture."""
    found = [(name, load) for name, text in pages(site) for load in loads(text)]
    assert len(found) > 100
    assert [one for one in found if is_elsewhere(one[1])] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert [load for text in styles for load in loads_of_style(text) if is_elsewhere(load)] == []
    scripts = [path.read_text() for path in site.rglob("*.js")]
    assert not any(re.search(r"(fetch|import)\(\s*['\"`](https?:)?//", text) for text in scripts)


def test_a_load_from_another_host_is_detected():
    """In a page and in a style sheet; a link is none."""
    page = (
        '<a href="https://a.example"></a><script src="//b.example/x.js"></script><img src="x.png">'
    )
    assert [one for one in loads(page) if is_elsewhere(one)] == ["//b.example/x.js"]
    style = "@import 'https://c.example/x.css'; a { background: url(d.png) }"
    assert [one for one in loads_of_style(style) if is_elsewhere(one)] == [
        "https://c.example/x.css"
    ]


def test_the_python_api_is_made_of_docstrings(site):
    """Every name that the library exports is there, with its arguments."""
    text = (site / "docs" / "reference" / "python.html").read_text()
    import tracker  # noqa: PLC0415 - after the page, which must not need it

    missing = [name for name in tracker.__all__ if f'id="tracker.{name}"' not in text]
    assert missing == []
    assert "flush_interval_s" in text
