"""The project's pages, as a parser of Markdown sees them: snippets, headings, links."""

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

# The parser logs each of its steps, which takes longer than parsing where logs are captured.
logging.getLogger("markdown_it").setLevel(logging.WARNING)

ROOT = Path(__file__).parents[2]
_PARSER = MarkdownIt().enable("table")


@dataclass(frozen=True)
class Snippet:
    """A block of code: its language, if it says one, and the line at which it begins."""

    language: str
    line: int
    text: str


@dataclass(frozen=True)
class Page:
    """A page of Markdown."""

    name: str
    text: str

    @cached_property
    def _tokens(self) -> list[Token]:
        return _PARSER.parse(self.text)

    @cached_property
    def _inline(self) -> list[Token]:
        return [child for token in self._tokens for child in token.children or ()]

    def snippets(self, *languages: str) -> list[Snippet]:
        """Return the blocks of code, of some languages or of all."""
        found = [
            Snippet(token.info.strip(), token.map[0] + 2, token.content)
            for token in self._tokens
            if token.type in {"fence", "code_block"}
        ]
        return [snippet for snippet in found if not languages or snippet.language in languages]

    def section(self, heading: str) -> "Page":
        """Return what is under a heading of the second level, as a page."""
        _, found, rest = self.text.partition(f"\n## {heading}\n")
        assert found, f"{self.name} has no heading {heading}"
        return Page(self.name, rest.split("\n## ")[0])

    def code(self) -> list[str]:
        """Return what is code in running text."""
        return [token.content for token in self._inline if token.type == "code_inline"]

    def links(self) -> list[str]:
        """Return what links and images lead to."""
        found = (token.attrs.get("href", token.attrs.get("src")) for token in self._inline)
        return [link for link in found if link is not None]

    def anchors(self) -> set[str]:
        """Return what links may name after a `#`, made of the headings as GitHub does."""
        anchors: set[str] = set()
        for token, text in zip(self._tokens, self._tokens[1:], strict=False):
            if token.type == "heading_open":
                words = "".join(child.content for child in text.children)
                name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
                again = sum(
                    re.fullmatch(rf"{name}(-\d+)?", anchor) is not None for anchor in anchors
                )
                anchors.add(f"{name}-{again}" if again else name)
        return anchors


def _read() -> dict[str, Page]:
    folders = (ROOT / name for name in ("api", "benchmarks", "docs", "tests", "tracker"))
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    names = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    return {name: Page(name, (ROOT / name).read_text()) for name in names}


PAGES = _read()
"""Every page, by its path in the checkout."""
