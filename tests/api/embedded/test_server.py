"""The embedded server: any path will do, processes share it, and it starts after a crash.

Run by root, it runs as another system user; these tests then see both.
"""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import structlog

from api.postgres.embedded import EmbeddedServer, EmbeddedServerError, embedded_server
from api.postgres.embedded_program import binaries, server_account
from tests.support.embedded_data import (
    ASK,
    CHECKOUT,
    HOLD,
    LONG,
    ODD,
    ROOT_ONLY,
    ask,
    process_of,
)


@pytest.mark.parametrize("name", [ODD, LONG], ids=["odd", "long"])
@pytest.mark.parametrize(
    "user", ["", pytest.param("nobody", marks=ROOT_ONLY)], ids=["self", "nobody"]
)
def test_the_server_starts_with_any_path_and_environment(folder, name, user):
    """Blanks, quotes and long paths; locales that do not exist; variables for another server."""
    if user:
        shutil.chown(folder, user)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ASK,
            user,
            folder / name,
            "SELECT 'datlocale ' || datlocale FROM pg_database",
        ],
        cwd=CHECKOUT,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("LC_")},
            "LC_ALL": "en_GB.UTF-8",
            "PGPORT": "1",
            "PGDATA": "/nowhere",
            "PYTHONUTF8": "1",
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("datlocale C.UTF-8\n", "")
    assert not (folder / name / "postmaster.pid").exists()


def test_a_running_server_with_a_socket_elsewhere_is_restarted(data_dir, folder):
    """That of an older version with a long path listens where anyone may put another socket."""
    account = server_account()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.chown(elsewhere, account.uid)
    folder.chmod(0o711)
    with process_of(
        account,
        data_dir,
        str(binaries(account) / "postgres"),
        "-D",
        str(data_dir),
        "-k",
        str(elsewhere),
        "-h",
        "",
    ) as old:
        while not (elsewhere / ".s.PGSQL.5432").exists():
            assert old.poll() is None
        with embedded_server(data_dir) as dsn:
            assert old.wait(30) == 0
            assert ask(dsn, "SELECT 1") == 1
            assert (data_dir / ".s.PGSQL.5432").is_socket()


@pytest.mark.parametrize("content", ["", "\n", "not a number\n", "{innocent}\n/\n0\n5432\n"])
def test_leftovers_of_a_crash_neither_block_the_start_nor_end_another_process(data_dir, content):
    """The dead server's process id now belongs to another process: same user, same directory."""
    with process_of(server_account(), data_dir, "sleep", "600") as innocent:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (data_dir / name).write_text(content.format(innocent=innocent.pid))
        with embedded_server(data_dir) as dsn:
            assert ask(dsn, "SELECT 1") == 1
        assert innocent.poll() is None
    assert not (data_dir / "postmaster.pid").exists()


def test_a_server_of_another_directory_is_not_used(data_dir, folder):
    """Not even if the process id of a dead server now belongs to it."""
    other_dir = folder / "other"
    subprocess.run(["/bin/cp", "-a", data_dir, other_dir], check=True)
    with embedded_server(other_dir) as other:
        shutil.copy(other_dir / "postmaster.pid", data_dir)
        with embedded_server(data_dir) as dsn:
            assert ask(dsn, "SELECT 1") == 1
        assert ask(other, "SELECT 1") == 1


def test_a_dead_server_that_is_still_a_child_of_this_process_is_started_again(data_dir):
    """As the first process left it, which started it and has not collected it."""
    server = EmbeddedServer(data_dir)
    dead = psutil.Process(server.pid)
    killed = [dead, *dead.children()]
    for process in killed:
        process.kill()
    while server.pid is not None:
        pass
    server.start()
    assert ask(server.dsn, "SELECT 1") == 1
    server.close()


@pytest.fixture
def unconfigured_logs():
    """The state of every command but `serve`, which alone configures its logs."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("unconfigured_logs")
def test_waiting_for_another_process_is_reported_and_bounded(data_dir, capfd):
    """Once, on stderr, and then in the error."""
    with (data_dir / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(EmbeddedServerError, match=r"has held the lock .*\.lock for 0\.5 s"),
            embedded_server(data_dir, timeout_s=0.5),
        ):
            pass
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == ("", [f"waiting up to 0.5 s for the lock {data_dir}/.lock"])
    assert not (data_dir / "postmaster.pid").exists()


def test_the_log_is_named_only_where_there_is_one(data_dir, folder):
    """With the reason that PostgreSQL gave."""
    (data_dir / "postgresql.auto.conf").write_text("port = 'nonsense'\n")
    with pytest.raises(EmbeddedServerError) as refused, embedded_server(data_dir):
        pass
    (log,) = [word for word in str(refused.value).split() if word.startswith(f"{data_dir}/log")]
    assert Path(log.rstrip(");")).stat().st_size
    for name, reason in (("full", "is not empty"), ("file", "Not a directory")):
        path = folder / name
        if name == "full":
            path.mkdir(mode=0o755)
            (path / "important").touch()
        else:
            path.touch()
        with pytest.raises(EmbeddedServerError, match=reason) as refused, embedded_server(path):
            pass
        assert "look at" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    assert stat.S_IMODE((folder / "full").stat().st_mode) == 0o755


def test_processes_share_a_server_and_a_killed_one_does_not_keep_it_running(data_dir):
    """The last one to leave stops it, even if another could not leave."""
    command = [sys.executable, "-c", HOLD, data_dir]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        dsn = first.stdout.readline().strip()
        server = EmbeddedServer(data_dir)
        pid = server.pid
        assert server.dsn == dsn
        server.close()
        assert ask(dsn, "SELECT 1") == 1
        first.kill()
        first.wait()
    assert psutil.pid_exists(pid)
    with embedded_server(data_dir) as dsn:
        assert str(pid) in (data_dir / "postmaster.pid").read_text()
    assert not psutil.pid_exists(pid)
    assert not (data_dir / "postmaster.pid").exists()


def test_an_interrupted_initialization_is_repeated(data_dir):
    """Neither half a cluster nor one that was half moved into its place blocks the next start."""
    new = data_dir / ".initdb"
    new.mkdir()
    for entry in list(data_dir.iterdir()):
        if entry != new:
            entry.rename(new / entry.name)
    for name in (".lock", ".users", "log"):
        (new / name).unlink()
    new.rename(data_dir / ".initialized")
    (data_dir / ".initialized" / "base").rename(data_dir / "base")
    with embedded_server(data_dir) as dsn:
        assert ask(dsn, "SELECT 1") == 1
    for entry in list(data_dir.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    new.mkdir()
    (new / "PG_VERSION").write_text("18\n")
    with embedded_server(data_dir) as dsn:
        assert ask(dsn, "SELECT 1") == 1
    assert not new.exists()
