"""What /api/health/ready answers: for those who serve it, and for those who ask."""

from typing import Literal

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served, by name what is in the way, and what is wrong besides."""

    status: Literal["ready", "not_ready"]
    problems: dict[str, str]
    warnings: dict[str, str]
