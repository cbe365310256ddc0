"""Deliberate breaks of what makes one service of several workers, as in `mutants`."""

from tests.support.mutants import Mutant

WORKER_MUTANTS = [
    Mutant(
        "no worker accepts the connections of a place whose worker is gone",
        "workers/group.py",
        "vacant=vacant if worker is stand_in else [],",
        "vacant=[],",
        "AssertionError",
        "tests/api/workers/test_group.py::test_one_worker_accepts_the_connections_of_those_that_died_or_hang",
        "api",
    ),
    Mutant(
        "a worker that hangs keeps its place",
        "workers/group.py",
        "for one in self.slots if one.worker is None or one.worker.hangs]",
        "for one in self.slots if one.worker is None]",
        "AssertionError",
        "tests/api/workers/test_group.py::test_one_worker_accepts_the_connections_of_those_that_died_or_hang",
        "api",
    ),
    Mutant(
        "a reload stops the old worker before the new one is ready",
        "workers/group.py",
        "        try:\n            await self.start(slot, read_settings=read_settings)\n",
        "        try:\n            await old.stop(let_go=True, deadline_s=1)\n"
        "            await self.start(slot, read_settings=read_settings)\n",
        "AssertionError",
        "tests/api/workers/test_group.py::test_a_reload_stops_a_worker_when_the_new_one_accepts",
        "api",
    ),
    Mutant(
        "the sums forget workers that are gone",
        "workers/merge.py",
        "        _add(self._gone, families, kept_only=True)\n",
        "",
        "AssertionError",
        "tests/api/workers/test_parts.py::test_counters_are_summed_with_those_of_workers_that_are_gone",
        "api",
    ),
    Mutant(
        "one sibling is not asked",
        "workers/siblings.py",
        "    return await asyncio.gather(*(ask(*question) for question in questions))\n",
        "    found = await asyncio.gather(*(ask(*question) for question in questions[:-1]))\n"
        "    return [*found, {}]\n",
        "AssertionError",
        "tests/api/workers/test_siblings.py::test_a_listing_has_the_latest_pending_touch_of_all_siblings",
        "api",
    ),
]
