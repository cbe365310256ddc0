"""All links have a target, and every snippet is of a kind that is tested."""

import json
import re
import uuid
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from api.load_settings import load_settings
from tests.monitoring.test_alerts import ALERTS
from tests.support.markdown import PAGES, ROOT, Page
from tests.support.promtool import needs_promtool, promtool

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)

TESTED = {
    "sh": "tests/docs/test_snippets.py",
    "python": "tests/docs/test_embed_page.py, test_readme.py, test_examples.py, and so on",
    "sql": "tests/docs/test_embed_page.py, test_presence_example.py, and below",
    "promql": "tests/monitoring/test_alerts.py",
    "toml": "below: settings",
    "yaml": "below: configurations of Prometheus and Alertmanager",
    "json": "below",
    "": "a picture, or what a command prints",
    "{toctree}": "tests/docs/test_site.py",
    "{eval-rst}": "tests/docs/test_site.py",
}
"""What tests the snippets of each language."""


def broken_links(page: Page) -> list[str]:
    """Return the links of a page that lead nowhere; those to other hosts are not followed."""
    broken = []
    for link in page.links():
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = ((ROOT / page.name).parent / unquote(parts.path)).resolve()
        name = target.relative_to(ROOT).as_posix() if parts.path else page.name
        there = PAGES.get(name, Page(name, ""))
        if not (ROOT / name).exists() or {parts.fragment} - there.anchors() - {""}:
            broken.append(link)
    return broken


@each_page
def test_every_link_has_a_target(page):
    """To a file of the checkout, and to a heading in it."""
    assert broken_links(page) == []


def test_a_broken_link_is_detected():
    """A file that is not there, and a heading that is not in it."""
    links = "[a](docs/nowhere.md) [b](docs/index.md#nowhere) [c](#here) [d](docs/glossary.md#lag)"
    assert broken_links(Page("README.md", f"{links} ![e](f.png)")) == [
        "docs/nowhere.md",
        "docs/index.md#nowhere",
        "#here",
        "f.png",
    ]


def test_readme_and_index_link_every_page():
    """A page without a link is not read."""
    pages = {name for name in PAGES if name.startswith("docs/")}
    assert pages <= set(PAGES["README.md"].links())
    index = PAGES["docs/index.md"]
    linked = {resolved(index, link) for link in index.links() if "://" not in link}
    assert pages - {index.name} <= linked


def resolved(page: Page, link: str) -> str:
    """Return the path in the checkout of a link to another page."""
    path = ((ROOT / page.name).parent / urlsplit(link).path).resolve()
    return path.relative_to(ROOT).as_posix()


@each_page
def test_every_snippet_is_of_a_kind_that_is_tested(page):
    """The language is after the three backticks; a new language needs a test."""
    assert {snippet.language for snippet in page.snippets()} <= TESTED.keys()


def test_snippets_are_where_their_tests_expect_them():
    """Python and SQL are run page by page, as they need an application or a database."""
    for language, pages in {
        "python": [
            "README.md",
            "docs/howto/consumer.md",
            "docs/howto/embed.md",
            "docs/howto/gunicorn.md",
            "docs/howto/own-presence.md",
            "docs/howto/webhooks.md",
        ],
        "sql": ["docs/howto/embed.md", "docs/howto/own-presence.md", "docs/howto/postgres.md"],
        "promql": ["api/monitoring/RUNBOOK.md"],
    }.items():
        assert [name for name, page in PAGES.items() if page.snippets(language)] == pages


async def test_a_database_that_the_service_owns_is_made_as_the_page_says(db):
    """The statements for a role and a database run; with names that no other test uses."""
    (snippet,) = PAGES["docs/howto/postgres.md"].snippets("sql")
    name = f"page_{uuid.uuid4().hex[:12]}"
    statements = re.sub(r"\bactivity\b", name, snippet.text).split(";\n")
    try:
        for statement in filter(None, statements):
            await db.execute(statement)
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1"
        assert await db.fetchval(owner, name) == name
    finally:
        await db.execute(f"DROP DATABASE IF EXISTS {name}")
        await db.execute(f"DROP ROLE IF EXISTS {name}")


@each_page
def test_settings_on_a_page_are_valid(page, tmp_path):
    """By name, type and range, and together."""
    for snippet in page.snippets("toml"):
        file = tmp_path / f"line {snippet.line}.toml"
        file.write_text(snippet.text)
        load_settings(file)


@needs_promtool
@each_page
def test_a_prometheus_configuration_on_a_page_is_valid(page, tmp_path):
    """As a complete configuration, with the rules that it names."""
    for snippet in page.snippets("yaml"):
        configuration = yaml.safe_load(snippet.text)
        if "route" in configuration:
            continue  # of Alertmanager: below
        configuration["rule_files"] = [
            str(ROOT / name) for name in configuration.get("rule_files", [])
        ]
        file = tmp_path / f"line {snippet.line}.yml"
        file.write_text(yaml.safe_dump(configuration))
        assert promtool("check", "config", file) == ""


def test_the_alertmanager_configuration_names_severities_and_alerts_that_exist():
    """Every receiver is defined, so that no alert goes nowhere."""
    (configuration,) = (
        configuration
        for snippet in PAGES["docs/howto/monitor.md"].snippets("yaml")
        if "route" in (configuration := yaml.safe_load(snippet.text))
    )
    routes = [configuration["route"], *configuration["route"]["routes"]]
    known = {receiver["name"] for receiver in configuration["receivers"]}
    assert {route["receiver"] for route in routes} == known
    for rule in configuration["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            (names,) = re.fullmatch(r'alertname=~?"(.*)"', matcher).groups()
            assert set(names.split("|")) <= ALERTS.keys()
    matched = {matcher for route in routes for matcher in route.get("matchers", ())}
    severities = {rule["labels"]["severity"] for rule in ALERTS.values()}
    assert matched == {f'severity="{one}"' for one in severities - {"warning"}}


@each_page
def test_json_on_a_page_is_json(page):
    """A reader who copies it can send it."""
    for snippet in page.snippets("json"):
        json.loads(snippet.text)
