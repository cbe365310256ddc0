"""One fault after the other under load, and what must hold through each of them."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import psutil

from benchmarks.faults import Fault
from benchmarks.faults.environment import Environment
from benchmarks.faults.load import HEARTBEATS_PER_S, UNREACHABLE, Phase

_NOISE_S: Final = 5.0
"""What a busy machine may add to any wait."""
_SOON_S: Final = 60.0
_MOST_GROWTH_BYTES: Final = 50_000_000
_ROUNDING_S: Final = 1
_WAITED: Final = 0.75
"""Share of a fault's time. Whoever waits for the database waits for what is left of it."""
_TARGETS: Final = ("devices", "api_keys")


@dataclass(slots=True)
class Outcome:
    """How the service bore a fault, or several in a row.

    Attributes:
        heartbeats: how many were answered 204 meanwhile.
        p99_ratio: of their latency to that before; None if the service itself was stopped.
        stored: uploads that were answered 200 meanwhile.
        unavailable: uploads that were answered 503.
        unreachable: requests that nobody answered.
        growth_bytes: what the service's memory grew by; None if it was started again.
        recovered_s: from the end of the fault until all that was acknowledged was in the table and
            uploads were stored, in seconds.
        problems: what should not have happened, in words.
    """

    heartbeats: int = 0
    p99_ratio: float | None = None
    stored: int = 0
    unavailable: int = 0
    unreachable: int = 0
    growth_bytes: int | None = None
    recovered_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def recovery_limit_s(scene: Environment) -> float:
    """Return how long a recovery may take: two flush intervals and the longest backoff."""
    tracker = scene.settings.tracker
    return 2 * tracker.flush_interval_s + tracker.backoff_max_s


async def undergo(scene: Environment, *faults: Fault) -> Outcome:
    """Let faults happen one right after the other, and see the service through them.

    Some devices fall silent at the end of each fault, so that no later heartbeat makes up for one
    that was lost.

    Args:
        scene: where all is well.
        faults: what goes wrong, in this order.
    """
    outcome = Outcome()
    scene.problems = outcome.problems
    calm = await _calm(scene)
    process = psutil.Process(scene.service.process.pid)
    before_bytes = process.memory_info().rss
    phases = []
    for number, fault in enumerate(faults):
        phases.append(Phase())
        scene.load.phase = phases[-1]
        falling_silent = scene.fleet.devices[number :: len(faults) + 1]
        scene.victim = falling_silent[0]
        async with fault.happen(scene):
            await asyncio.sleep(scene.seconds * fault.times)
            scene.load.silent.update(falling_silent)
    await _recover(scene, outcome)
    if process.pid == scene.service.process.pid:
        outcome.growth_bytes = process.memory_info().rss - before_bytes
        if outcome.growth_bytes > _MOST_GROWTH_BYTES:
            outcome.problems.append(f"it grew by {outcome.growth_bytes} bytes")
    for fault, during in zip(faults, phases, strict=True):
        _judge(scene, fault, calm, during, outcome)
    await _judge_the_books(scene, outcome.problems)
    outcome.problems += scene.witness.problems
    scene.witness.problems.clear()
    return outcome


async def _calm(scene: Environment) -> Phase:
    """Return what it is like while all is well, with every device known to the service."""
    scene.load.silent.clear()
    for least in (2 * len(scene.fleet.devices), HEARTBEATS_PER_S * scene.seconds / 2):
        calm = scene.load.phase = Phase()
        async with asyncio.timeout(_SOON_S + scene.seconds):
            while calm.heartbeats[204] < least:
                await asyncio.sleep(0.05)
    return calm


async def _recover(scene: Environment, outcome: Outcome) -> None:
    """Wait until all that was acknowledged is in the table and uploads are stored again."""
    after = scene.load.phase = Phase()
    ended = time.monotonic()
    limit_s = recovery_limit_s(scene) + _NOISE_S
    owed = scene.load.owed()
    while True:
        table = scene.witness.table
        there = all(table.get(key, 0) >= at for key, at in owed.items())
        outcome.recovered_s = time.monotonic() - ended
        if (there and after.uploads[200]) or outcome.recovered_s > limit_s:
            break
        await asyncio.sleep(0.02)
    if outcome.recovered_s > limit_s:
        outcome.problems.append(f"not recovered within {limit_s:.0f} s: {dict(after.uploads)}")
    outcome.problems += await scene.unwritten(owed)
    outcome.problems += [
        f"{device} was last heard of at {heard_at:.1f}, the table has {scene.witness.table[device]}"
        for device, heard_at in scene.load.heard_at.items()
        if device in scene.load.silent and scene.witness.table[device] > heard_at + _ROUNDING_S
    ]
    _judge_answers(after, outcome.problems, may_be_unreachable=False)


def _judge(scene: Environment, fault: Fault, calm: Phase, during: Phase, outcome: Outcome) -> None:
    outcome.heartbeats += during.heartbeats[204]
    outcome.stored += during.uploads[200]
    outcome.unavailable += during.uploads[503]
    outcome.unreachable += during.heartbeats[UNREACHABLE] + during.uploads[UNREACHABLE]
    _judge_answers(during, outcome.problems, may_be_unreachable=fault.requests_suffer)
    if fault.requests_suffer:
        return
    outcome.p99_ratio = max(during.p99_s / calm.p99_s, outcome.p99_ratio or 0.0)
    # A busy machine adds to milliseconds what it likes, so the ratio is for people to judge.
    if during.p99_s > _WAITED * scene.seconds * fault.times:
        outcome.problems.append(f"{fault.name}: heartbeats took {during.p99_s:.1f} s")


def _judge_answers(phase: Phase, problems: list[str], *, may_be_unreachable: bool) -> None:
    allowed = {UNREACHABLE} if may_be_unreachable else set()
    heartbeats = phase.heartbeats.keys() - {204} - allowed
    uploads = phase.uploads.keys() - {200, 503} - allowed
    problems += [f"{phase.heartbeats[said]} heartbeats ended in {said}" for said in heartbeats]
    problems += [f"{phase.uploads[said]} uploads ended in {said}" for said in uploads]


async def _judge_the_books(scene: Environment, problems: list[str]) -> None:
    """Compare what was touched with what became of it, at a moment when no flush is under way."""
    for target in _TARGETS:
        deadline = time.monotonic() + _NOISE_S
        while (metrics := await scene.metrics()).balance(target):
            if time.monotonic() > deadline:
                problems.append(f"the books of {target} are off by {metrics.balance(target):.0f}")
                break
            await asyncio.sleep(0.05)
        dropped = metrics.total("activity_touches_dropped_total", target=target)
        if dropped:
            problems.append(f"{dropped:.0f} touches of {target} were dropped")
