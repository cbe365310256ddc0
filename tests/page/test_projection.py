"""Shows that the map's projection handles the antimeridian."""

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_map_fits_positions_on_both_sides_of_the_antimeridian(tab):
    """It covers the shortest arc that contains all of them."""
    await tab.open()
    fits = "[[-17, 179], [-18, -179]], 400, 300, 20"
    assert await tab.module("projection", "m.shortestArc([179, -179, 178])") == {
        "west": 178,
        "span": 3,
    }
    left, right = await tab.module("projection", f"(p => [p.x(179), p.x(-179)])(m.fit({fits}))")
    assert 0 < left < 200 < right < 400
    assert await tab.module("projection", "m.fit([], 400, 300, 20)") is None
    lines = f"m.fit({fits}).graticule(80).meridians.map((one) => one.degrees)"
    assert await tab.module("projection", lines) == [179, 179.5, -180, -179.5, -179]
    alone = await tab.module(
        "projection", "(p => [p.x(2), p.y(48)])(m.fit([[48, 2]], 9e2, 300, 20))"
    )
    assert alone == [450, 150]
