"""What /api/health/ready responds with: shared by the service and by the command that asks it."""

from typing import Literal

import msgspec


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether requests can be served, and what is wrong, by code.

    `problems` keep requests from being served, `warnings` do not. `details` says more of a code:
    names of hosts, users and tables are in it, so not every client gets it.
    """

    status: Literal["ready", "not_ready"]
    problems: list[str]
    warnings: list[str]
    details: dict[str, str] = msgspec.field(default_factory=dict)
