"""Which tests are slow: `--fast` leaves them out, and a whole run starts them first.

The list below is the only place that decides it. A file belongs there when it takes more than about
five seconds on two idle cores: `pytest --durations=0` measures it.
"""

from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

SLOW: Final = {
    "tests/api/test_faults.py": "starts an environment for every fault",
    "tests/page": "drives a browser",
    "tests/api/workers": "starts services with several workers",
    "tests/tracker/test_mutants.py": "breaks the tracker deliberately, dozens of times",
    "tests/api/test_crash.py": "kills the service under load, many times",
    "tests/benchmarks": "runs the load generator and the fuzzer",
    "tests/docs": "runs the commands that the pages show",
    "tests/api/embedded/test_server.py": "initializes and starts servers",
    "tests/api/embedded/test_access.py": "initializes and starts servers",
    "tests/api/test_outage.py": "stops and starts a server of its own",
    "tests/api/test_outage_devices.py": "stops and starts a server of its own",
    "tests/api/attacks": "attacks the service for seconds at a time",
    "tests/api/test_cli_keys.py": "starts a process for every command",
    "tests/api/test_cli_serve.py": "starts a process for every command",
    "tests/api/test_cli.py": "starts a process for every command",
    "tests/monitoring": "runs Prometheus on alerts and dashboard",
    "tests/api/test_completion.py": "starts interactive shells",
    "tests/api/test_leaks.py": "runs pytest in processes of its own",
    "tests/api/test_key_expiry.py": "waits for keys to expire",
    "tests/tracker/test_journal_recovery.py": "kills processes",
    "tests/tracker/test_journal_directory.py": "fills a disk",
    "tests/tracker/test_simulation.py": "simulates many histories",
    "tests/api/test_authorization_matrix.py": "tries every route with every API key",
    "tests/api/test_keys.py": "waits for revocations, and starts processes",
    "tests/api/test_shares.py": "sends megabytes to clients that do not read",
    "tests/api/test_acceptance.py": "sends thousands of requests",
    "tests/tracker/test_blame.py": "writes hundreds of rows that fail in every way",
    "tests/api/test_trailers.py": "fills the queue of requests",
    "tests/tracker/test_journal_disk_errors.py": "fills segments on a disk that fails",
    "tests/api/test_malformed_bodies.py": "sends hundreds of malformed bodies",
    "tests/api/test_live_stream.py": "waits for ticks",
    "tests/api/test_request_metrics.py": "sends requests of every kind",
    "tests/api/test_known_devices.py": "waits for changes to reach other processes",
    "tests/tracker/test_journal_owner.py": "opens trackers on several databases",
    "tests/tracker/test_journal_faults.py": "starts processes that lose their journal",
    "tests/api/test_body_encodings.py": "sends bodies that inflate without end",
    "tests/api/test_malformed_connections.py": "sends malformed requests, many of them random",
    "tests/tracker/test_concurrency.py": "lets writers compete for the same rows",
    "tests/tracker/test_pooler.py": "starts pgbouncer",
    "tests/tracker/test_properties.py": "tries many histories of buffer and flushes",
    "tests/api/test_listing_histories.py": "tries many histories of a listing",
    "tests/api/test_cli_secrets.py": "starts a process for every command",
    "tests/api/test_listener.py": "waits for the timeouts of slow clients",
    "tests/api/test_live_connections.py": "fills the connections of slow clients",
    "tests/api/test_rows_in_logs.py": "makes the database reject rows in every way",
    "tests/api/test_flood.py": "floods the service with unknown API keys",
    "tests/api/test_status.py": "runs the command on a terminal",
    "tests/api/test_exposition.py": "scrapes a million pending keys",
    "tests/api/test_status_client.py": "starts a process for every address",
    "tests/api/test_signals_and_addresses.py": "runs the service in processes of its own",
    "tests/api/webhooks/test_leases.py": "waits for leases to end",
    "tests/api/test_locations.py": "uploads reports of every kind",
    "tests/api/webhooks/test_delivery.py": "waits for receivers that fail or hang",
    "tests/api/test_events.py": "waits for events to arrive",
    "tests/api/test_listing.py": "lists thousands of devices",
    "tests/api/test_presence.py": "waits for devices to go offline",
    "tests/api/test_devices.py": "starts a service for every case",
    "tests/api/test_live_limits.py": "opens streams up to every limit",
    "tests/api/test_location_bodies.py": "uploads bodies of every kind",
    "tests/tracker/test_table_check.py": "makes tables with every fault",
    "tests/api/test_connection_limit.py": "runs the service in processes of its own",
    "tests/api/test_group_secrecy.py": "tries every way to reach a device",
    "tests/api/test_presence_states.py": "waits for states to change",
    "tests/api/test_presence_replay.py": "replays an hour of reports",
    "tests/api/test_presence_model.py": "runs random histories of presence",
    "tests/api/test_gateways.py": "sends thousands of touches and reports",
    "tests/api/test_access.py": "starts a service for every case",
    "tests/api/test_batch_commit.py": "commits batches under locks and failures",
    "tests/api/test_migrate.py": "migrates in processes of its own",
}
"""What is slow, a file or a folder, and why; the longest first."""


def slow_entry(path: Path) -> str | None:
    """Return the entry of the list that holds a test file.

    Args:
        path: the absolute path of a file or folder.

    Returns:
        The entry, or None when the file is not slow.
    """
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    return next((e for e in SLOW if name == e or name.startswith(f"{e}/")), None)


def reasons_for_skips(reporter: pytest.TerminalReporter) -> list[str]:
    """Return a line for each reason for which tests were skipped, with their number."""
    tests: dict[str, int] = defaultdict(int)
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        tests[str(reason).removeprefix("Skipped: ")] += 1
    return [f"skipped {count}: {reason}" for reason, count in sorted(tests.items())]


class Selection:
    """A plugin of pytest: leaves slow tests out or starts them first, and reports what did not run.

    Args:
        fast: whether slow tests are left out.

    Raises:
        pytest.UsageError: the list names a file that does not exist.
    """

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        if missing := [entry for entry in SLOW if not (ROOT / entry).exists()]:
            raise pytest.UsageError(f"{__name__} lists what does not exist: {', '.join(missing)}")

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave slow files out, which saves importing them too."""
        return True if self._fast and slow_entry(collection_path) else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Start the slowest files first: one that starts last would run alone at the end."""
        if config.pluginmanager.hasplugin("randomly"):
            return
        places = {entry: place for place, entry in enumerate(SLOW)}
        items.sort(key=lambda item: places.get(slow_entry(item.path) or "", len(places)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what did not run, and why."""
        lines = reasons_for_skips(terminalreporter)
        if self._fast:
            lines += [f"left out {entry}: {reason}" for entry, reason in SLOW.items()]
            lines.append("`make test` runs what is left out; so does `pytest` with its path")
        terminalreporter.section("did not run")
        for line in lines or ["nothing was skipped or left out"]:
            terminalreporter.write_line(line)
