"""Each deliberate fault in the code makes the named test fail for the named reason."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.mutants import MUTANTS, SIMULATION, Mutant
from tests.support.presence_mutants import PRESENCE_MUTANTS
from tests.support.worker_mutants import WORKER_MUTANTS

ROOT = Path(__file__).parents[2]
ALL = [*MUTANTS, *WORKER_MUTANTS, *PRESENCE_MUTANTS]
HISTORIES = 600
"""Most mutants fail within ten histories, one needs a hundred."""
PYTEST = ["-m", "pytest", "-qx", "-p", "no:hypothesispytest"]
"""Without Hypothesis's plugin, whose import takes longer than a test."""


def copy_into(folder: Path) -> Path:
    """Copy all that a test needs."""
    for name in ("tracker", "api", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name)  # with the bytecode, which saves compiling
    for name in ("pyproject.toml", "config.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def break_code(folder: Path, mutant: Mutant) -> None:
    """Break the copy."""
    file = folder / mutant.package / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: mend the mutant"
    file.write_text(text.replace(mutant.old, mutant.new))


def run_histories(histories: int) -> str:
    """Return a program that runs histories, up to the first one that fails."""
    return f"""
from pathlib import Path
import tracker
from benchmarks.simulation.command import run_histories

assert Path(tracker.__file__).is_relative_to(Path.cwd())
outcome = run_histories(range({histories}))
raise SystemExit(f"seed {{outcome.seed}}: {{outcome.violation}}" if outcome.violation else 0)
"""


def run(folder: Path, command: list[str], dsn: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy."""
    environment = {**os.environ, "TEST_DATABASE_URL": dsn, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, server_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """The test run of each selected mutant, as many at a time as there are cores."""

    folders = tmp_path_factory.mktemp("mutants")

    def check(mutant: Mutant) -> subprocess.CompletedProcess[str]:
        folder = copy_into(folders / str(ALL.index(mutant)))
        break_code(folder, mutant)
        if mutant.by == SIMULATION:
            return run(folder, ["-c", run_histories(HISTORIES)], server_dsn)
        return run(folder, [*PYTEST, mutant.by], server_dsn)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        selected = [
            item.callspec.params["mutant"]
            for item in request.session.items
            if getattr(item, "callspec", None) and "mutant" in item.callspec.params
        ]
        yield {mutant.breaks: pool.submit(check, mutant) for mutant in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.breaks)
def test_each_mutant_fails_its_test(outcomes, mutant):
    """An invariant or an assertion fails, not an import."""
    ended = outcomes[mutant.breaks].result()
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, f"no test fails: {said}"
    assert re.search(mutant.caught, said), said
    if mutant.by == SIMULATION:
        assert "InvariantViolation" in said, said
    else:
        assert re.search(r"\b[1-9]\d* failed", said), said


def test_the_unchanged_tracker_passes_the_same_tests(tmp_path, server_dsn):
    """In a copy like theirs: some histories, and each named test."""
    folder = copy_into(tmp_path)
    tests = {mutant.by for mutant in ALL} - {SIMULATION}
    ended = run(folder, [*PYTEST, *sorted(tests)], server_dsn)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ended = run(folder, ["-c", run_histories(histories=30)], server_dsn)
    assert ended.returncode == 0, ended.stdout + ended.stderr
