"""A scenario: faults under load, one after the other, and the checks of each."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from api.config import TrackerSettings
from api.targets import targets
from benchmarks.faults import Fault
from benchmarks.faults.environment import Environment
from benchmarks.faults.load import HEARTBEATS_PER_S, UNREACHABLE, Phase

_NOISE_S: Final = 5.0
"""Allowance for a busy machine in any wait."""
_SOON_S: Final = 60.0
_RECEIVED_WITHIN_S: Final = 60.0
"""The receiver of events fails now and then, so a batch is sent again after a backoff."""
_MOST_GROWTH_BYTES: Final = 50_000_000
_ROUNDING_S: Final = 1
_WAITED: Final = 0.75
"""Share of a fault's duration. A request that waits for the database waits until the fault ends."""
_TARGETS: Final = tuple(target.name for target in targets(TrackerSettings()))


@dataclass(slots=True)
class Outcome:
    """What a scenario measured and which checks failed.

    Attributes:
        heartbeats: heartbeats with the response 204 during the faults.
        p99_ratio: 99th percentile of their latency, relative to that before; None if the service
            itself was stopped.
        stored: uploads with the response 200 during the faults.
        unavailable: uploads with the response 503.
        unreachable: requests without a response.
        growth_bytes: growth of the service's memory; None if it was started again.
        recovered_s: from the end of the fault until everything acknowledged was in the table and
            uploads were stored, in seconds.
        problems: failed checks, as text.
    """

    heartbeats: int = 0
    p99_ratio: float | None = None
    stored: int = 0
    unavailable: int = 0
    unreachable: int = 0
    growth_bytes: int | None = None
    recovered_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def recovery_limit_s(environment: Environment) -> float:
    """Return how long a recovery may take: two flush intervals and the longest backoff."""
    tracker = environment.settings.tracker
    return 2 * tracker.flush_interval_s + tracker.backoff_max_s


async def run_scenario(environment: Environment, *faults: Fault) -> Outcome:
    """Run faults one right after another, wait for the recovery, and run the checks.

    Some devices stop sending at the end of each fault, so that no later heartbeat hides a lost
    one.

    Args:
        environment: a healthy environment.
        faults: the faults, in order.
    """
    outcome = Outcome()
    environment.problems = outcome.problems
    before = await _before_faults(environment)
    process = environment.service.process
    before_bytes = environment.service.resident_bytes()
    phases = []
    for number, fault in enumerate(faults):
        phases.append(Phase())
        environment.load.phase = phases[-1]
        falling_silent = environment.fleet.devices[number :: len(faults) + 1]
        environment.victim = falling_silent[0]
        async with fault.happen(environment):
            await asyncio.sleep(environment.seconds * fault.times)
            environment.load.silent.update(falling_silent)
    stored = await environment.events.stored()
    await _recover(environment, outcome)
    if process is environment.service.process:
        outcome.growth_bytes = environment.service.resident_bytes() - before_bytes
        if outcome.growth_bytes > _MOST_GROWTH_BYTES:
            outcome.problems.append(f"it grew by {outcome.growth_bytes} bytes")
    for fault, during in zip(faults, phases, strict=True):
        _check_phase(environment, fault, before, during, outcome)
    await _check_balance(environment, outcome.problems)
    outcome.problems += await environment.events.unreceived(stored, within_s=_RECEIVED_WITHIN_S)
    outcome.problems += environment.events.problems
    environment.events.problems.clear()
    outcome.problems += environment.invariants.problems
    environment.invariants.problems.clear()
    return outcome


async def _before_faults(environment: Environment) -> Phase:
    """Measure the load before any fault, with every device known to the service."""
    environment.load.silent.clear()
    for least in (2 * len(environment.fleet.devices), HEARTBEATS_PER_S * environment.seconds / 2):
        before = environment.load.phase = Phase()
        async with asyncio.timeout(_SOON_S + environment.seconds):
            while before.heartbeats[204] < least:
                await asyncio.sleep(0.05)
    return before


async def _recover(environment: Environment, outcome: Outcome) -> None:
    """Wait until everything acknowledged is in the table and uploads are stored again."""
    after = environment.load.phase = Phase()
    ended = time.monotonic()
    limit_s = recovery_limit_s(environment) + _NOISE_S
    owed = environment.load.owed()
    while True:
        table = environment.invariants.table
        there = all(table.get(key, 0) >= at for key, at in owed.items())
        outcome.recovered_s = time.monotonic() - ended
        if (there and after.uploads[200]) or outcome.recovered_s > limit_s:
            break
        await asyncio.sleep(0.02)
    if outcome.recovered_s > limit_s:
        outcome.problems.append(f"not recovered within {limit_s:.0f} s: {dict(after.uploads)}")
    outcome.problems += await environment.unwritten(owed)
    outcome.problems += [
        f"{device} sent its last request at {heard_at:.1f}, the table "
        f"has {environment.invariants.table[device]}"
        for device, heard_at in environment.load.heard_at.items()
        if device in environment.load.silent
        and environment.invariants.table[device] > heard_at + _ROUNDING_S
    ]
    _check_responses(after, outcome.problems, may_be_unreachable=False)


def _check_phase(
    environment: Environment, fault: Fault, before: Phase, during: Phase, outcome: Outcome
) -> None:
    outcome.heartbeats += during.heartbeats[204]
    outcome.stored += during.uploads[200]
    outcome.unavailable += during.uploads[503]
    outcome.unreachable += during.heartbeats[UNREACHABLE] + during.uploads[UNREACHABLE]
    _check_responses(during, outcome.problems, may_be_unreachable=fault.requests_suffer)
    if fault.requests_suffer:
        return
    outcome.p99_ratio = max(during.p99_s / before.p99_s, outcome.p99_ratio or 0.0)
    # A busy machine adds to milliseconds what it likes, so a ratio is no problem in itself. Nor is
    # it the service that kept a heartbeat waiting which was sent late.
    waited_s = during.p99_s - during.late_s
    if waited_s > _WAITED * environment.seconds * fault.times:
        outcome.problems.append(f"{fault.name}: heartbeats waited {waited_s:.1f} s")


def _check_responses(phase: Phase, problems: list[str], *, may_be_unreachable: bool) -> None:
    allowed = {UNREACHABLE} if may_be_unreachable else set()
    heartbeats = phase.heartbeats.keys() - {204} - allowed
    uploads = phase.uploads.keys() - {200, 503} - allowed
    problems += [f"{phase.heartbeats[said]} heartbeats ended in {said}" for said in heartbeats]
    problems += [f"{phase.uploads[said]} uploads ended in {said}" for said in uploads]


async def _check_balance(environment: Environment, problems: list[str]) -> None:
    """Compare the touches with what was counted of them, when no flush is in progress."""
    for target in _TARGETS:
        deadline = time.monotonic() + _NOISE_S
        while (metrics := await environment.metrics()).balance(target):
            if time.monotonic() > deadline:
                problems.append(
                    f"the counters of {target} are off by {metrics.balance(target):.0f}"
                )
                break
            await asyncio.sleep(0.05)
        dropped = metrics.total("activity_touches_dropped_total", target=target)
        if dropped:
            problems.append(f"{dropped:.0f} touches of {target} were dropped")
