"""The shell snippets of all pages run as they are shown, in a sandbox with a fresh checkout."""

import re
import shlex
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli import app as api
from benchmarks.__main__ import app as benchmarks
from tests.support.command_line import free_port
from tests.support.docs_sandbox import command, is_of_the_suite, sandbox_with_service, script
from tests.support.markdown import PAGES, ROOT, Page

NOT_RUN = {
    "make demo": "an hour of reports, and it stays up: see tests/benchmarks/test_demo.py",
    "make test": "this is it",
    "make bench": "ten minutes",
    "make bench COMPARE=.activity/benchmarks/results.json": "ten minutes",
    "make check": "it judges the real checkout",
    "make format": "it changes the real checkout",
    "make install": "the tests run in what it makes",
    "make packages": "it installs what this may need",
    "make serve": "until it is stopped; the sandbox runs it",
    "make docs": "it writes to the real checkout: see tests/docs/test_site.py",
    "pip install gunicorn": "it downloads packages",
    "gunicorn --chdir docs/examples --workers 4 --worker-class aiohttp.GunicornWebWorker "
    "gunicorn_app:create_app": "until it is stopped: see tests/docs/test_examples.py",
    "make constraints": "it downloads newer versions",
    "make audit": "it asks a database of vulnerabilities",
    "pip install .": "it downloads packages; tests/tracker/test_public_surface.py does that",
    ".venv/bin/python -m benchmarks touch": "a minute",
    ".venv/bin/python -m benchmarks presence": "minutes: test_suites.py has its shortest part",
    ".venv/bin/python -m benchmarks flush --dsn postgresql://...": "minutes, on a server",
    ".venv/bin/python -m benchmarks fuzz --requests 100000": "minutes: test_fuzz.py has some",
    ".venv/bin/python -m benchmarks simulate --flushes 1000000": "see test_simulation.py",
    "PRESENCE_HISTORIES=200 .venv/bin/python -m pytest --timeout 0 "
    "tests/api/test_presence_model.py": "minutes: it has some histories without the variable",
    ".venv/bin/python -m benchmarks reloads": "minutes: test_reload.py and test_death.py have some",
    ".venv/bin/python -m benchmarks faults": "minutes: test_faults.py has a second of each",
    ".venv/bin/python -m benchmarks faults --only black-hole --seconds 60 --sequence 0": "minutes",
    "python -m benchmarks faults --seconds 10 --sequence 20 --seed 7": "minutes",
    ".venv/bin/python -m benchmarks screenshots": "minutes, and it overwrites the pictures",
    "/usr/bin/python3 -m venv .venv": "for root: see tests/docs/test_deployment.py",
    ".venv/bin/python -m pip install --no-deps --require-hashes "
    "-r api/deployment/requirements.txt": "it downloads packages",
    ".venv/bin/python -m pip install --no-deps --no-build-isolation -e .": "it changes it",
    "install -m 0600 api/deployment/activity-tracker.env /etc/activity-tracker.env": "for root",
    "install -m 0644 api/deployment/activity-tracker.service /etc/systemd/system/": "for root",
    'export "$(grep ^ACTIVITY__DATABASE__URL= /etc/activity-tracker.env)"': "no such file here",
    "python -m api serve --config my.toml": "until it is stopped; the sandbox runs it",
}
"""Commands that can't be run here, and why; that they exist, with their options, is checked."""

PRINTED = {
    "README.md": r'"display_name":"Van 1","platform":"android","last_seen_at":"20',
    "docs/tutorial/first-steps.md": r'"last_location":\{"latitude":48.5,"longitude":2.5,'
    r'(.|\n)*activity_buffer_keys\{target="devices"\} [1-9]',
}
"""What following a page must print, among other things."""

MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = {"api": api, "benchmarks": benchmarks}
SHOWN = {name: page for name, page in PAGES.items() if page.snippets("sh")}
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl is not installed: run `make packages` as root"
)


@pytest.fixture(scope="module")
def sandbox():
    """Make one sandbox for all pages, as they don't interfere."""
    # Not a folder of pytest's: the server's user may not enter those.
    with (
        tempfile.TemporaryDirectory(prefix="activity-sandbox-") as folder,
        sandbox_with_service(Path(folder), free_port()) as sandbox,
    ):
        yield sandbox


@needs_curl
@pytest.mark.parametrize("page", SHOWN.values(), ids=SHOWN)
def test_every_command_on_a_page_works(page, sandbox):
    """In order, in one shell; responses of 400 and above are failures."""
    # What pages expect of their readers: a server, a session there that has ended, and a device.
    given = {
        "DATABASE_URL": sandbox.database_url,
        "ADMIN_URL": sandbox.database_url,
        "RESTORED_URL": sandbox.database_url.replace("/postgres?", "/restored?"),
        "PID": "0",
        "DEVICE": str(uuid.UUID(int=0)),
    }
    done = sandbox.follow(page, NOT_RUN, **given)
    assert done.returncode == 0, (
        f"{page.name}: {done.stderr}\n{done.stdout}\n"
        "Mend the snippet, or add the command to NOT_RUN, with the reason why it can't be run here."
    )
    assert re.search(PRINTED.get(page.name, ""), done.stdout)
    if page.name == "README.md":
        # The service lists the heartbeat; the table still has the registration before it.
        *_, listed, stored = re.findall(r'"last_seen_at": ?"([^"]+)"', done.stdout)
        assert listed > stored


@needs_curl
@pytest.mark.parametrize("wrong", ["false", "curl http://127.0.0.1:8080/nowhere", "echo $NOTHING"])
def test_a_command_that_fails_is_reported_with_its_line(wrong, sandbox):
    """So is a request that the service rejects, and a variable that no page has set."""
    page = Page("broken.md", f"# Broken\n\n```sh\ntrue\n{wrong}\n```\n")
    done = sandbox.follow(page, NOT_RUN)
    assert done.returncode != 0
    assert "line 5" in done.stderr


def test_only_commands_with_a_reason_are_not_run():
    """With the comment behind it."""
    page = Page("some.md", "# Some\n\n```sh\nmake test  # why\nmake testing\n```\nor `curl x`\n")
    assert script(page, NOT_RUN).splitlines()[1:] == ["", "", "", "make testing", "", "", "curl x"]


@pytest.mark.parametrize("listed", NOT_RUN)
def test_a_command_that_is_not_run_is_on_a_page_and_exists(listed):
    """Make has such a target, Python such a command with these options."""
    snippets = [snippet for page in SHOWN.values() for snippet in page.snippets("sh")]
    shown = {command(line) for snippet in snippets for line in snippet.text.splitlines()}
    assert listed in shown
    word = next(word for word in listed.split() if "=" not in word)
    assert (
        exists(listed) if is_ours(listed) else word in {"export", "gunicorn"} or shutil.which(word)
    )


@pytest.mark.parametrize("page", SHOWN.values(), ids=SHOWN)
def test_files_that_commands_of_pytest_name_exist(page):
    """These commands are not run: they are parts of the suite."""
    lines = [line for snippet in page.snippets("sh") for line in snippet.text.splitlines()]
    words = [word for line in lines if is_of_the_suite(line) for word in line.split()]
    files = [word for word in words if word.startswith("tests/")]
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_commands_in_running_text_exist(page):
    """With their options; three dots stand for what the reader fills in."""
    named = [code for code in page.code() if is_ours(code) and "..." not in code]
    assert [code for code in named if not exists(code)] == []


@pytest.mark.parametrize(
    "wrong",
    ["make tea", "make bench COMPRAE=x", "python -m api sreve", "python -m api serve --nwo"],
)
def test_a_command_that_does_not_exist_is_detected(wrong):
    """A target, a command, an option."""
    assert is_ours(wrong)
    assert not exists(wrong)


def is_ours(text: str) -> bool:
    """Return whether a text is a command of the project's own."""
    return re.match(r"make [a-z]|(\.venv/bin/)?python -m (api|benchmarks)\b", text) is not None


def exists(text: str) -> bool:
    """Return whether there is such a command, with such options."""
    if text.startswith("make "):
        # Not asked of make, to which a phony target without a rule is no error.
        words = (word.partition("=") for word in text.split()[1:])
        return all(
            (f"$({name})" if is_set else f"\n{name}:") in MAKEFILE for name, is_set, _ in words
        )
    _, _, module, *arguments = shlex.split(text)
    return CliRunner().invoke(COMMANDS[module], [*arguments, "--help"]).exit_code == 0
