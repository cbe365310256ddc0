"""The revisions of the schema that this code knows, and the table with the current revision.

The table is the service's own: Alembic's default one may belong to another application.
"""

from typing import Final

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
)
"""In order; a test compares them with migrations/versions."""
HEAD: Final = REVISIONS[-1]
VERSION_TABLE: Final = "activity_schema_version"
SELECT_REVISIONS: Final = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - a constant


def is_newer(revision: str) -> bool:
    """Return whether a revision is unknown, because it belongs to newer code."""
    return revision not in REVISIONS
