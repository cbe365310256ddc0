"""Posts location reports, and reads what is stored."""

from tests.support.service import Service


async def stored(db) -> list[tuple]:
    rows = await db.fetch(
        "SELECT (extract(epoch FROM captured_at) * 1000)::bigint, latitude, longitude, accuracy, "
        "altitude, bearing, speed, provider, battery_level, network_type FROM locations ORDER BY 1"
    )
    return [tuple(row) for row in rows]


async def post(service: Service, body: object, path: str = "/api/v1/locations", **options):
    return await service.call("POST", path, json=body, **options)
