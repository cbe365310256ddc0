"""What a worker queries from the other workers of its service; `api.workers` responds.

A service of one process has no siblings: `Alone` stands for that.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

MISSING_WORKERS: Final[ContextVar[Sequence[int]]] = ContextVar("missing_workers", default=())
"""The workers whose touches are missing in the response that is being made."""


class Revision(NamedTuple):
    """What a poll of `key_revision` has returned; see `api.access.revocations`."""

    number: int
    """Counts the changes of API keys."""
    now: float
    """The database's time, in epoch seconds."""
    asked_at: float
    """When the query was sent, by the monotonic clock, which all processes of a host share."""


class DeviceRevision(NamedTuple):
    """What a poll for changes of devices has found; see `api.access.device_feed`."""

    number: int
    """Differs if there were changes; only compared with others."""
    asked_at: float
    """When the query was sent, by the monotonic clock, which all processes of a host share."""


Poll: TypeAlias = Callable[[], Revision | DeviceRevision | None]
"""Returns what this process has just polled; None if it has not."""


class SiblingViews(Protocol):
    """Views of the devices' pending touches of all siblings, taken at one moment."""

    @property
    def missing(self) -> Sequence[int]:
        """The workers that have not responded in time, whose touches are unknown."""
        ...

    async def latest(self, device_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the second of the latest pending touch of each of these devices that has one.

        Args:
            device_ids: in canonical form.
        """
        ...


@dataclass(frozen=True, slots=True)
class LiveNews:
    """What siblings know of some devices, and how their trackers do.

    Args:
        seen: the second of each device that was touched since the news before.
        missed: whether touches may have been written to the table without being in any news.
        targets: the statistics of each sibling, by target.
    """

    seen: Mapping[str, int] = field(default_factory=dict)
    missed: bool = False
    targets: Sequence[Sequence[Mapping[str, Any]]] = ()


class LiveNewsSource(Protocol):
    """Tells about the devices of one group again and again."""

    async def news(self, device_ids: Sequence[str]) -> LiveNews:
        """Return what has happened since the last call.

        Args:
            device_ids: all devices of the group. The same object as at the last call means that the
                group has the same devices.
        """
        ...


class Siblings(Protocol):
    """The other workers of the service."""

    async def views(self) -> SiblingViews | None:
        """Take views of what is pending in them; None if there are no siblings."""
        ...

    def live_news(self) -> LiveNewsSource | None:
        """Return a source of news for one group; None if there are never siblings."""
        ...

    async def revision(self) -> Revision | None:
        """Return what the worker that polls for all has polled last; None if that is this one."""
        ...

    async def device_revision(self) -> DeviceRevision | None:
        """As `revision`, for changes of devices."""
        ...

    async def exposition(self) -> bytes | None:
        """Return the metrics of the whole service as text; None if this worker's are all."""
        ...

    def warnings(self) -> Mapping[str, str]:
        """Return what readiness should warn of, by code."""
        ...


class Alone:
    """No siblings: the service is one process."""

    async def views(self) -> SiblingViews | None:
        """Return None."""
        return None

    def live_news(self) -> LiveNewsSource | None:
        """Return None."""
        return None

    async def revision(self) -> Revision | None:
        """Return None."""
        return None

    async def device_revision(self) -> DeviceRevision | None:
        """Return None."""
        return None

    async def exposition(self) -> bytes | None:
        """Return None."""
        return None

    def warnings(self) -> Mapping[str, str]:
        """Return nothing."""
        return {}
