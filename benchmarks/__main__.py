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

from api.config import Settings, SettingsError
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
from benchmarks.simulation.command import replay
from benchmarks.simulation.command import simulate as run_simulation
from benchmarks.suites.run import BENCHMARKS, FOLDER, run
from tracker import StoreError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def options() -> None:
    """Load on the service, and what it makes of it."""


@app.command()
def demo(
    *,
    leave: Annotated[bool, typer.Option("--exit", help="End when done.")] = False,
    config: Annotated[Path | None, typer.Option(help="The service's settings.")] = None,
) -> None:
    """Replay the sample fleet through the service and show what became of it."""
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
    requests: Annotated[int, typer.Option(min=1, help="At least how many.")] = 100_000,
    seed: Annotated[
        int | None, typer.Option(help="Of the first round; by default a random one.")
    ] = None,
    dsn: Annotated[
        str, typer.Option(help="A server to make a database on; by default an embedded one.")
    ] = "",
) -> None:
    """Send the service what its document says, and what it does not, and see that it copes."""
    from benchmarks.fuzzing.fuzz import fuzz as run_fuzz  # noqa: PLC0415 - imports Schemathesis

    first = random.randrange(1 << 32) if seed is None else seed
    console = Console(width=_width())
    try:
        with nullcontext(dsn) if dsn else embedded_server(FOLDER / "postgres") as server:
            code = asyncio.run(run_fuzz(Testbed(server), console, requests=requests, seed=first))
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
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each lasts.")] = 10.0,
    sequence: Annotated[
        int, typer.Option(min=0, help="How many to draw in the end, one right after the other.")
    ] = 20,
    seed: Annotated[int | None, typer.Option(help="What to draw by, to repeat a sequence.")] = None,
    write: Annotated[Path | None, typer.Option(help="A page to write the table to.")] = None,
) -> None:
    """Break what is around the service, under load, and see that nothing is lost."""
    unknown = set(only or ()) - FAULTS.keys()
    if unknown:
        known = ", ".join(FAULTS)
        raise typer.BadParameter(f"no such fault: {', '.join(unknown)}; there are {known}")
    seed = random.randrange(1000) if seed is None else seed
    plan = Plan(seconds, only or tuple(FAULTS), seed, sequence)
    console = Console(width=_width())
    try:
        matrix = asyncio.run(carry_out(plan, Settings(), console))
    except (ServiceFailedError, EmbeddedServerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    show(matrix, console)
    if write:
        again = (
            f"python -m benchmarks faults --seconds {seconds:g} --sequence {sequence} --seed {seed}"
        )
        chosen = "".join(f" --only {name}" for name in only or ())
        write.write_text(page(matrix, again + chosen), encoding="utf-8")
    raise typer.Exit(0 if matrix.held else 1)


@app.command()
def simulate(
    *,
    flushes: Annotated[int, typer.Option(min=1, help="How many, at least.")] = 100_000,
    seed: Annotated[int | None, typer.Option(help="Of the first history; any when left out.")] = (
        None
    ),
    processes: Annotated[int, typer.Option(min=1, help="How many work at once.")] = 2,
    trace: Annotated[bool, typer.Option("--trace", help="One history, with all steps.")] = False,
) -> None:
    """Let everything fail in virtual time, and see that the tracker keeps its laws."""
    first = random.randrange(1_000_000_000) if seed is None else seed
    if trace:
        raise typer.Exit(replay(first, Console()))
    raise typer.Exit(
        run_simulation(flushes=flushes, seed=first, processes=processes, console=Console())
    )


@app.command()
def screenshots(
    *,
    seconds: Annotated[int, typer.Option(min=5, help="How much to replay at its pace.")] = 300,
) -> None:
    """Take the pictures of the live page that are in docs/images/, of the sample fleet."""
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
            str, typer.Option(help="A server to make databases on; by default an embedded one.")
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
    """Return what the table needs, where there is no terminal to say how much there is."""
    return None if sys.stdout.isatty() else 200


for _name, _documentation in {
    "touch": "What a touch costs, in time and in memory.",
    "flush": "How fast rows are written, and at what cost.",
    "http": "What tracking costs requests, against other ways to track.",
    "ingest": "Uploads in groups, against an INSERT for each.",
    "flood": "What valid clients notice of a flood of wrong keys.",
    "live": "What open live pages cost the heartbeats.",
    "scale": "From a thousand keys to a million.",
    "scrape": "What Prometheus costs, with a million keys pending.",
    "slow": "What other clients notice of one API key that takes all it can.",
    "peers": "Other systems that track activity in batches.",
    "all": "Every benchmark, in under ten minutes.",
}.items():
    _command(_name, _documentation)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
