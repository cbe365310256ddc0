"""Whether a device is online, from what is stored and what is pending.

Stored is whether it is online or offline, and since when. Whether one that is online is idle, and
what has changed since the last flush, follows from when it was last seen.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from api.config import Settings

Presence: TypeAlias = Literal["online", "idle", "offline", "never"]
PRESENCES: Final[tuple[Presence, ...]] = get_args(Presence)


@dataclass(frozen=True, slots=True)
class PresenceRule:
    """When a device is what.

    Args:
        idle_after_s: seconds since it was last seen, after which it is idle.
        offline_after_s: the same for offline, where it is not stored, and its group and the device
            itself have no other.
        is_watched: whether a process watches for devices that go offline; if not, what is stored
            is not looked at.
    """

    idle_after_s: int = 120
    offline_after_s: int = 900
    is_watched: bool = True

    def state(
        self,
        seen: int,
        now: int,
        *,
        is_online: bool | None,
        since: int | None,
        offline_after_s: int | None,
    ) -> tuple[Presence, int | None]:
        """Return the presence of a device, and since when, in epoch seconds.

        Args:
            seen: when it was last seen, pending touches included, in epoch seconds; 0 for never.
            now: the database's time in epoch seconds.
            is_online: as stored; None if it is not known.
            since: as stored.
            offline_after_s: the device's own or its group's time; None for the default.
        """
        if not seen:
            return "never", None
        if not self.is_watched:
            is_online = None
        age_s = now - seen
        if is_online is False and since is not None and seen <= since:
            return "offline", since
        after_s = offline_after_s or self.offline_after_s
        if is_online is not True and age_s >= max(after_s, self.idle_after_s):
            return "offline", seen + after_s
        if age_s > self.idle_after_s:
            return "idle", seen + self.idle_after_s
        return "online", since if is_online and since is not None else seen

    def changes_at(
        self, seen: int, presence: Presence, *, is_online: bool | None, offline_after_s: int | None
    ) -> int | None:
        """Return the second at which time alone changes what a device is; None if it does not.

        Args:
            seen: when it was last seen, in epoch seconds.
            presence: what it is now.
            is_online: as stored; None if it is not known.
            offline_after_s: the device's own or its group's time; None for the default.
        """
        if presence not in ("online", "idle"):
            return None
        idle_at = seen + self.idle_after_s + 1 if presence == "online" else None
        if self.is_watched and is_online:
            return idle_at  # that it is offline is stored when it is found
        offline_at = seen + max(offline_after_s or self.offline_after_s, self.idle_after_s)
        return offline_at if idle_at is None else min(idle_at, offline_at)


def presence_rule(settings: Settings) -> PresenceRule:
    """Return the rule that settings describe.

    A touch may have been rounded down, so a device is idle later by as much.
    """
    presence = settings.presence
    return PresenceRule(
        presence.idle_after_s + settings.tracker.device_resolution_s - 1,
        presence.offline_after_s,
        is_watched=presence.enabled,
    )


def presence_sql(*, idle_after_s: str, offline_after_s: str, is_watched: str) -> str:
    """Return SQL for the presence of a row of `devices`, computed as `PresenceRule` does.

    Args:
        idle_after_s: the placeholder of the rule's field, such as `$1`.
        offline_after_s: the same.
        is_watched: the same.
    """
    after_s = f"""
        greatest({idle_after_s}::integer, coalesce(offline_after_s, (
            SELECT s.offline_after_s FROM group_settings AS s WHERE s.group_id = devices.group_id
        ), {offline_after_s}::integer))"""  # noqa: S608 - placeholders
    second = "date_trunc('second', now())"
    return f"""
    CASE WHEN last_seen_at IS NULL OR NOT isfinite(last_seen_at) THEN 'never'
         WHEN is_online IS FALSE AND {is_watched} AND last_seen_at <= presence_since THEN 'offline'
         WHEN NOT (is_online IS TRUE AND {is_watched})
              AND last_seen_at <= {second} - make_interval(secs => {after_s}) THEN 'offline'
         WHEN last_seen_at < {second} - make_interval(secs => {idle_after_s}) THEN 'idle'
         ELSE 'online' END
    """
