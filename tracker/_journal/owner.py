"""Whose touches a segment holds: of which target, and of which database.

The header of a segment names the target, its table and its columns. The database is what the server
says of itself, not how its address is spelled. A process may record touches before it has reached
the server, so the server's identity is in a file of the process's directory, written as soon as it
is known. Until then there is only the origin: a digest of how the database is addressed.
"""

import hashlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

from tracker._journal.format import UnreadableJournal
from tracker.target import Target

_ADDRESS: Final = ("origin", "database")
"""Fields of a header that say how the database is addressed; `database` is that of releases before
the server was asked."""
_DEFAULT_PORT: Final = 5432


class Owners:
    """The owners that the segments of one process name.

    Args:
        targets: what is written.
        dsn: how the database is addressed; None if the application opens connections itself.
    """

    def __init__(self, targets: Mapping[str, Target], *, dsn: str | None) -> None:
        self.server: str | None = None
        """The identity of the database, once the server has said it."""
        self._address = _address(dsn)
        self._origin = _origin(dsn, self._address)
        self._tables = {name: _table(target) for name, target in targets.items()}

    def header(self, target: str) -> dict[str, str]:
        """Return what the header of a new segment says."""
        return {**self._tables[target], "origin": self._origin}

    def is_known(self, server: str | None) -> bool:
        """Return whether it can be decided now whether a directory may be recovered.

        Args:
            server: the identity that the directory has; None if its process never learned it.
        """
        return server is None or self.server is not None

    def target(self, owner: Mapping[str, str], server: str | None) -> str:
        """Return the target that a segment belongs to.

        Args:
            owner: what its header says.
            server: the identity that its directory has.

        Raises:
            UnreadableJournal: it belongs to no target of this process.
        """
        table = {name: value for name, value in owner.items() if name not in _ADDRESS}
        for target, ours in self._tables.items():
            if ours == table:
                if self._is_same_database(owner, server):
                    return target
                raise UnreadableJournal("it belongs to another database")
        described = ", ".join(f"{name} {value!r}" for name, value in table.items())
        raise UnreadableJournal(f"it belongs to another configuration: {described:.500}")

    def _is_same_database(self, owner: Mapping[str, str], server: str | None) -> bool:
        if server is not None:
            return server == self.server
        if "database" in owner:
            # A former release knew the database by its address alone, and took one without a name
            # in its path, such as `?dbname=`, for any other. Without a DSN it knew nothing.
            names_one = not self._address or self._address.rpartition(":")[2].partition("/")[2]
            return bool(names_one) and owner["database"] == self._address
        return owner.get("origin") == self._origin


def _table(target: Target) -> dict[str, str]:
    return {
        "target": target.name,
        "table": target.table,
        "key_column": target.key_column,
        "key_type": target.key_type,
        "column": target.column,
    }


def _address(dsn: str | None) -> str:
    """Return how former releases named a database: its hosts, ports and path."""
    parts = urlsplit(dsn or "")
    options = parse_qs(parts.query)
    servers = parts.netloc.rpartition("@")[2].split(",") + options.get("host", [])
    ports = options.get("port", [str(_DEFAULT_PORT)])
    named = [one if ":" in one else f"{one}:{ports[0]}" for one in servers if one]
    return ",".join(named) + parts.path


def _origin(dsn: str | None, address: str) -> str:
    """Return a digest of an address, with the names that may stand for the database's."""
    parts = urlsplit(dsn or "")
    options = parse_qs(parts.query)
    names = [*options.get("dbname", []), *options.get("database", []), *options.get("service", [])]
    named = "\n".join([address, parts.username or "", *names])
    return hashlib.sha256(named.encode()).hexdigest()[:32]
