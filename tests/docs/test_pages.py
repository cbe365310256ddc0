"""Pages lead where they say they do, and nothing in them goes untested."""

import json
import re
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from api.config import load_settings
from tests.monitoring.test_alerts import ALERTS
from tests.support.markdown import PAGES, ROOT, Page
from tests.support.promtool import needs_promtool, promtool

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)

TESTED = {
    "sh": "tests/docs/test_snippets.py",
    "python": "tests/docs/test_library_page.py",
    "sql": "tests/docs/test_library_page.py",
    "promql": "tests/monitoring/test_alerts.py",
    "toml": "below: settings",
    "yaml": "below: what Prometheus and Alertmanager are told",
    "json": "below",
    "": "a picture, or what a command prints",
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
def test_every_link_leads_somewhere(page):
    """To a file of the checkout, and a heading in it."""
    assert broken_links(page) == []


def test_a_link_that_leads_nowhere_is_noticed():
    """A file that is not there, and a heading that is not in it."""
    links = "[a](docs/nowhere.md) [b](docs/service.md#nowhere) [c](#here) [d](docs/service.md#http)"
    assert broken_links(Page("README.md", f"{links} ![e](f.png)")) == [
        "docs/nowhere.md",
        "docs/service.md#nowhere",
        "#here",
        "f.png",
    ]


def test_the_front_door_leads_to_every_page():
    """What is not linked is not read."""
    assert {name for name in PAGES if name.startswith("docs/")} <= set(PAGES["README.md"].links())


@each_page
def test_every_snippet_is_of_a_kind_that_is_tested(page):
    """Say what it is after the three backticks; a kind that is new needs a test."""
    assert {snippet.language for snippet in page.snippets()} <= TESTED.keys()


def test_snippets_are_where_their_tests_look_for_them():
    """Python is run page by page, as pages need other applications around them."""
    python = [name for name, page in PAGES.items() if page.snippets("python")]
    assert python == ["README.md", "docs/library.md"]
    assert [name for name, page in PAGES.items() if page.snippets("sql")] == ["docs/library.md"]
    assert [name for name, page in PAGES.items() if page.snippets("promql")] == [
        "api/monitoring/RUNBOOK.md"
    ]


@each_page
def test_settings_on_a_page_are_taken(page, tmp_path):
    """By name, type and range, and together."""
    for snippet in page.snippets("toml"):
        file = tmp_path / f"line {snippet.line}.toml"
        file.write_text(snippet.text)
        load_settings(file)


@needs_promtool
@each_page
def test_what_prometheus_is_told_on_a_page_is_taken(page, tmp_path):
    """A whole configuration, with the rules that it names."""
    for snippet in page.snippets("yaml"):
        told = yaml.safe_load(snippet.text)
        if "route" in told:
            continue  # it is Alertmanager who is told
        told["rule_files"] = [str(ROOT / name) for name in told.get("rule_files", [])]
        file = tmp_path / f"line {snippet.line}.yml"
        file.write_text(yaml.safe_dump(told))
        assert promtool("check", "config", file) == ""


def test_alertmanager_is_told_of_severities_and_alerts_that_exist():
    """And of receivers that it is told about, so that no alert goes nowhere."""
    (told,) = (
        told
        for snippet in PAGES["docs/monitor.md"].snippets("yaml")
        if "route" in (told := yaml.safe_load(snippet.text))
    )
    routes = [told["route"], *told["route"]["routes"]]
    known = {receiver["name"] for receiver in told["receivers"]}
    assert {route["receiver"] for route in routes} == known
    for rule in told["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            (names,) = re.fullmatch(r'alertname=~?"(.*)"', matcher).groups()
            assert set(names.split("|")) <= ALERTS.keys()
    matched = {matcher for route in routes for matcher in route.get("matchers", ())}
    severities = {rule["labels"]["severity"] for rule in ALERTS.values()}
    assert matched == {f'severity="{one}"' for one in severities - {"warning"}}


@each_page
def test_json_on_a_page_is_json(page):
    """Whoever copies it can send it."""
    for snippet in page.snippets("json"):
        json.loads(snippet.text)
