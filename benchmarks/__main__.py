"""`python -m benchmarks`: the demo, the fuzzing, the faults, and the benchmarks."""

import asyncio
import random
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
import uvloop
from rich.console import Console

from api.config import ServerSettings, Settings, SettingsError
from api.load_settings import load_settings
from api.postgres.embedded import EmbeddedServerError, embedded_server
from api.postgres.migrate import MigrationError
from benchmarks.demo.demo import demo as run_demo
from benchmarks.faults import FAULTS
from benchmarks.faults.matrix import Plan, carry_out, page, show
from benchmarks.harness.load import LoadFailedError
from benchmarks.harness.report import BenchmarkFailedError
from benchmarks.harness.service import ServiceFailedError
from benchmarks.harness.testbed import Testbed
from benchmarks.peers.synapse import PeerFailedError
from benchmarks.reloads.run import Amount, run_reloads
from benchmarks.simulation.command import replay
from benchmarks.simulation.command import simulate as run_simulation
from benchmarks.suites.run import BENCHMARKS, FOLDER, run
from tracker import StoreError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def options() -> None:
    """Demo, tests under load and benchmarks of the service."""


@app.command()
def demo(
    *,
    leave: Annotated[bool, typer.Option("--exit", help="End when done.")] = False,
    config: Annotated[Path | None, typer.Option(help="The service's settings.")] = None,
) -> None:
    """Replay the sample fleet through the service, and show the result."""
    try:
        settings = load_settings(config)
        code = uvloop.run(run_demo(settings, Console(), leave=leave))
    except (
        *(SettingsError, ServiceFailedError, EmbeddedServerError, StoreError),
        aiohttp.ClientError,
    ) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


@app.command()
def fuzz(
    *,
    requests: Annotated[int, typer.Option(min=1, help="The minimum number of requests.")] = 100_000,
    seed: Annotated[
        int | None, typer.Option(help="The seed of the first round; random by default.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=16, help="How many workers the service has.")
    ] = 1,
    dsn: Annotated[
        str,
        typer.Option(help="The server on which a database is created; an embedded one by default."),
    ] = "",
) -> None:
    """Send valid, invalid and malformed requests to the service, and check each response."""
    from benchmarks.fuzzing.fuzz import fuzz as run_fuzz  # noqa: PLC0415 - imports Schemathesis

    first = random.randrange(1 << 32) if seed is None else seed
    console = Console(width=_width())
    try:
        with nullcontext(dsn) if dsn else embedded_server(FOLDER / "postgres") as server:
            work = run_fuzz(
                Testbed(server), console, requests=requests, seed=first, workers=workers
            )
            code = asyncio.run(work)
    except (ServiceFailedError, EmbeddedServerError, MigrationError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


@app.command()
def faults(
    *,
    only: Annotated[
        list[str] | None, typer.Option(help="One fault; may be given more than once.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long each fault lasts, in seconds.")
    ] = 10.0,
    sequence: Annotated[
        int,
        typer.Option(
            min=0, help="The number of random faults at the end, without a recovery in between."
        ),
    ] = 20,
    seed: Annotated[int | None, typer.Option(help="The seed of the random faults.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=16, help="How many workers the service has.")
    ] = 1,
    write: Annotated[
        Path | None, typer.Option(help="A Markdown file to write the table to.")
    ] = None,
) -> None:
    """Run faults in the service's environment, under load, and check that nothing is lost."""
    unknown = set(only or ()) - FAULTS.keys()
    if unknown:
        known = ", ".join(FAULTS)
        raise typer.BadParameter(f"no such fault: {', '.join(unknown)}; there are {known}")
    seed = random.randrange(1000) if seed is None else seed
    plan = Plan(seconds, only or tuple(FAULTS), seed, sequence)
    console = Console(width=_width())
    try:
        settings = Settings(server=ServerSettings(workers=workers))
        matrix = asyncio.run(carry_out(plan, settings, console))
    except (ServiceFailedError, EmbeddedServerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    show(matrix, console)
    if write:
        again = (
            f"python -m benchmarks faults --seconds {seconds:g} --sequence {sequence} --seed {seed}"
            + (f" --workers {workers}" if workers > 1 else "")
        )
        chosen = "".join(f" --only {name}" for name in only or ())
        write.write_text(page(matrix, again + chosen), encoding="utf-8")
    raise typer.Exit(0 if matrix.held else 1)


@app.command()
def simulate(
    *,
    flushes: Annotated[int, typer.Option(min=1, help="The minimum number of flushes.")] = 100_000,
    seed: Annotated[
        int | None, typer.Option(help="The seed of the first history; random by default.")
    ] = (None),
    processes: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 2,
    trace: Annotated[
        bool, typer.Option("--trace", help="Run one history, and print all of its steps.")
    ] = False,
) -> None:
    """Simulate faults of every kind in virtual time, and check the tracker's invariants."""
    first = random.randrange(1_000_000_000) if seed is None else seed
    if trace:
        raise typer.Exit(replay(first, Console()))
    raise typer.Exit(
        run_simulation(flushes=flushes, seed=first, processes=processes, console=Console())
    )


@app.command()
def reloads(
    *,
    requests: Annotated[
        int, typer.Option(min=1, help="The minimum number of requests during the reloads.")
    ] = 1_000_000,
    reloads: Annotated[
        int, typer.Option(min=0, help="How often all workers are replaced by a reload.")
    ] = 20,
    kills: Annotated[int, typer.Option(min=0, help="How many workers are killed afterwards.")] = 20,
    workers: Annotated[
        int, typer.Option(min=2, max=16, help="How many workers the service has.")
    ] = 2,
    dsn: Annotated[
        str,
        typer.Option(help="The server on which a database is created; an embedded one by default."),
    ] = "",
) -> None:
    """Reload the service and kill workers under load, and check that nothing is lost."""
    console = Console(width=_width())
    amount = Amount(requests, reloads, kills, workers)
    try:
        with nullcontext(dsn) if dsn else embedded_server(FOLDER / "postgres") as server:
            code = uvloop.run(run_reloads(Testbed(server), console, amount))
    except (
        *(ServiceFailedError, EmbeddedServerError, MigrationError, TimeoutError),
        *(aiohttp.ClientError, OSError),
    ) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


@app.command()
def screenshots(
    *,
    seconds: Annotated[
        int, typer.Option(min=5, help="How many seconds to replay at their original speed.")
    ] = 300,
) -> None:
    """Take the screenshots of the live page in docs/images/, with the sample fleet."""
    from benchmarks.demo.screenshots import NoBrowserError  # noqa: PLC0415 - imports Playwright
    from benchmarks.demo.screenshots import screenshots as take_screenshots  # noqa: PLC0415

    try:
        asyncio.run(take_screenshots(Console(), seconds=seconds))
    except (
        *(NoBrowserError, ServiceFailedError, EmbeddedServerError, MigrationError),
        *(aiohttp.ClientError, OSError),
    ) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _command(name: str, documentation: str) -> None:
    names = list(BENCHMARKS) if name == "all" else [name]

    def run_benchmark(
        *,
        dsn: Annotated[
            str,
            typer.Option(
                help="The server on which databases are created; an embedded one by default."
            ),
        ] = "",
        compare: Annotated[
            Path | None, typer.Option(help="An earlier results.json to print this run against.")
        ] = None,
    ) -> None:
        try:
            code = run(names, dsn=dsn, compare=compare, console=Console(width=_width()))
        except (
            *(BenchmarkFailedError, ServiceFailedError, EmbeddedServerError, PeerFailedError),
            *(LoadFailedError, OSError),
        ) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            code = 130
        raise typer.Exit(code)

    app.command(name, help=documentation)(run_benchmark)


def _width() -> int | None:
    """Return the width that the table needs, for output that is no terminal."""
    return None if sys.stdout.isatty() else 200


for _name, _documentation in {
    "touch": "The cost of a touch, in time and in memory.",
    "flush": "The throughput of flushes, and their cost.",
    "http": "The cost of tracking for requests, compared with other designs.",
    "cost": "The first part of http: the CPU time of a request.",
    "ingest": "Batch commits of uploads, compared with an INSERT for each.",
    "flood": "The effect of a flood of wrong API keys on valid clients.",
    "live": "The cost of live streams for heartbeats.",
    "gateways": "Thousands of touches or reports of many devices in one request.",
    "scale": "The cost of a row, with a thousand to a million keys.",
    "scrape": "The cost of a scrape, with a million keys pending.",
    "slow": "The effect of an abusive API key on other clients.",
    "workers": "The cost of a request with several workers, and how evenly they share them.",
    "presence": "The cost of presence, and how soon a silent device and its events are known.",
    "peers": "Comparison with other systems that track activity in batches.",
    "all": "Every benchmark but cost and presence, in under ten minutes.",
}.items():
    _command(_name, _documentation)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
