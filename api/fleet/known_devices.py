"""Queries the devices that are active, and their groups, for authorization."""

from typing import NamedTuple

from api.postgres.database import Database


class KnownDevice(NamedTuple):
    """What authorization needs to know about an active device."""

    device_id: str
    group_id: str


async def load_devices(database: Database, device_ids: list[str]) -> dict[str, KnownDevice]:
    """Return the active devices among some ids.

    Args:
        database: where devices are stored.
        device_ids: ids in canonical form.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(
        "SELECT device_id::text, group_id FROM devices "
        "WHERE device_id = ANY($1::uuid[]) AND is_active",
        device_ids,
    )
    return {row[0]: KnownDevice(row[0], row[1]) for row in rows}


async def load_devices_of_groups(
    database: Database, keys: list[tuple[str, str]]
) -> dict[tuple[str, str], KnownDevice]:
    """Return the active devices among some ids that are in the group named with each.

    Args:
        database: where devices are stored.
        keys: pairs of a group and an id in canonical form.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(
        "SELECT d.device_id::text, d.group_id "
        "FROM unnest($1::text[], $2::uuid[]) AS asked (group_id, device_id) "
        "JOIN devices AS d USING (device_id, group_id) WHERE d.is_active",
        [group_id for group_id, _ in keys],
        [device_id for _, device_id in keys],
    )
    return {(row[1], row[0]): KnownDevice(row[0], row[1]) for row in rows}
