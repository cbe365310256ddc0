"""The response of /api/health/ready, for the service and for the command that reads it."""

from typing import Literal

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served, and what is wrong, by code.

    `problems`: this process cannot serve requests that another one could serve. `degraded`: a part
    is unavailable that requests do not need for a while. `warnings`: no request is affected.
    `details` describes codes, with names of hosts, users and tables; not every client receives it.
    """

    status: Literal["ready", "not_ready"]
    problems: list[str] = msgspec.field(default_factory=list)
    degraded: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    details: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
