"""What /api/health/ready responds with: shared by the service and by the command that asks it."""

from typing import Literal

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served, and what is wrong, by code.

    `problems` keep this process from serving requests that another one could serve. `degraded` is
    what it can do without for a while, `warnings` is what harms no request. `details` says more of
    a code: names of hosts, users and tables are in it, so not every client gets it.
    """

    status: Literal["ready", "not_ready"]
    problems: list[str] = msgspec.field(default_factory=list)
    degraded: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    details: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
