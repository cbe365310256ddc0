"""Every fault of the matrix, a second of each, and some in a row; FAULTS_SEED repeats these.

`python -m benchmarks faults` lets them last longer, on the service as shipped, and takes figures.
"""

import io
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from rich.console import Console

from api.config import ServerSettings, Settings
from benchmarks.faults import FAULTS, Fault
from benchmarks.faults.environment import Environment, running_environment
from benchmarks.faults.matrix import Matrix, Plan, page, show
from benchmarks.faults.scenario import Outcome, run_scenario

IN_A_ROW = 6
QUICK = Settings(
    database={"statement_timeout_s": 0.5},
    auth={"refresh_s": 2.0},
    webhooks={"timeout_s": 0.5, "backoff_max_s": 1.0},
    tracker={
        "flush_interval_s": 0.5,
        "statement_timeout_s": 0.5,
        "lock_timeout_s": 0.1,
        "backoff_initial_s": 0.2,
        "backoff_max_s": 1.0,
        "shutdown_deadline_s": 2.0,
    },
)
"""All waits are short, as the faults are."""
OF_SEVERAL_PROCESSES = ("event-loop-blocked", "sigterm-without-database", "server-killed")
"""Faults in which it matters that processes need each other."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here() -> AsyncIterator[Environment]:
    async with running_environment(QUICK, seconds=1.0) as here:
        yield here


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_fails_no_heartbeat_and_loses_nothing(here: Environment, fault: Fault):
    """Uploads are stored or get a 503, counters balance, and the service recovers by itself."""
    assert (await run_scenario(here, fault)).problems == []


@pytest.mark.asyncio(loop_scope="module")
async def test_faults_in_a_row_lose_nothing_either(here: Environment):
    """One begins before the service has recovered from the other."""
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(1000)))
    drawn = Plan(here.seconds, seed=seed, in_a_row=IN_A_ROW).drawn()
    print(f"FAULTS_SEED={seed}: {', '.join(drawn)}")  # noqa: T201 - shown if it fails
    assert (await run_scenario(here, *(FAULTS[name] for name in drawn))).problems == []


@pytest.mark.parametrize("name", OF_SEVERAL_PROCESSES)
async def test_a_fault_with_two_workers_loses_nothing(name: str):
    """Every fault runs with workers by `python -m benchmarks faults --workers 2`."""
    settings = QUICK.model_copy(update={"server": ServerSettings(workers=2)})
    async with running_environment(settings, seconds=1.0) as here:
        assert (await run_scenario(here, FAULTS[name])).problems == []


def test_a_run_reports_each_invariant_that_held_or_failed():
    """On the terminal and on the page, with what it takes to repeat it."""
    plan = Plan(10.0, alone=["black-hole", "sigterm"], seed=7, in_a_row=2)
    broken = Outcome(unreachable=3, problems=["2 uploads ended in 500"])
    matrix = Matrix(plan, 40.0, {"black-hole": Outcome(p99_ratio=1.25), "sigterm": broken})
    assert not matrix.held
    output = io.StringIO()
    show(matrix, Console(file=output, width=200))
    for text in (output.getvalue(), page(matrix, "python -m benchmarks faults --seed 7")):
        assert "2 uploads ended in 500" in text
        assert all(name in text for name in plan.drawn())
    assert "python -m benchmarks faults --seed 7" in text
    assert "| black-hole | Packets to and from the server vanish | 0 | 1.2 |" in text


def test_the_same_seed_draws_the_same_faults():
    """And another one others."""
    first, again, other = (Plan(1.0, seed=seed, in_a_row=50).drawn() for seed in (1, 1, 2))
    assert first == again != other


def test_an_unknown_fault_is_an_error_that_lists_the_faults():
    """Before anything is started."""
    command = [sys.executable, "-m", "benchmarks", "faults", "--only", "earthquake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "earthquake" in done.stderr
    assert "black-hole" in done.stderr
