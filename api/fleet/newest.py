"""The newest position of a device, found even if its clock was wrong for a while.

A device whose clock runs far ahead reports positions in the future, and no correct report is newer
until that time is reached. So a report counts only if it was captured at most some minutes after it
was received. All reports are stored as they are, and tracks show them all.
"""

from typing import Final

_CANDIDATES: Final = 1000
"""How many reports of a device are examined at most. Without a limit, the whole track of a device
whose clock is always ahead would be read each time."""


def newest_of(device_id: str, ahead_s: float) -> str:
    """Return the SQL of a subquery that selects the newest position of a device, if it has one.

    Its columns are latitude, longitude, accuracy, captured_at.

    Args:
        device_id: SQL of the device's id.
        ahead_s: how long after a report was received it may say that it was captured, in seconds.
    """
    ahead = f"interval '{ahead_s:f} seconds'"
    # Nothing in it comes from a request.
    return f"""(
        SELECT latitude, longitude, accuracy, captured_at FROM (
            SELECT latitude, longitude, accuracy, captured_at, received_at FROM locations
            WHERE locations.device_id = {device_id}
                  AND captured_at > '-infinity' AND captured_at <= now() + {ahead}
            ORDER BY captured_at DESC LIMIT {_CANDIDATES}
        ) AS candidates
        WHERE captured_at <= received_at + {ahead}
        ORDER BY captured_at DESC LIMIT 1
    )"""  # noqa: S608
