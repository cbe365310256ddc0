"""What the database says of a row that it rejects is logged without the row."""

import uuid

from tests.support.service import REPORT, running
from tracker import FlushError

MARK = "Zx81Marked"
LATITUDE = 48.123456


async def test_no_value_of_a_rejected_row_gets_out(dsn, db, capsys):
    """Names, tokens and positions are in the DETAIL of an error, which stays where it is."""
    said: list[str] = []
    async with running(dsn) as service:
        good = await service.register(group_id="family", name=MARK)
        marked = await service.register(group_id="family", name=MARK)
        await db.execute(
            "UPDATE devices SET fcm_token = $1, platform = $1 WHERE device_id = $2",
            MARK,
            marked,
        )
        await service.tracker.flush()
        # A rule of the operator: rejects a touch of one row, every registration with the mark, and
        # every report.
        await db.execute(
            f"""
            UPDATE devices SET last_seen_at = '2000-01-01';
            ALTER TABLE devices ADD CONSTRAINT rule
                CHECK (fcm_token IS DISTINCT FROM '{MARK}' OR last_seen_at < '2010-01-01');
            ALTER TABLE locations ADD CONSTRAINT rule CHECK (provider IS DISTINCT FROM '{MARK}')
            """
        )
        for device_id in (good, marked):
            await service.heartbeat(device_id)
        try:
            await service.tracker.flush()
        except FlushError as error:
            said.append(str(error))
        upload = await service.upload(
            good, latitude=LATITUDE, provider=MARK, network_type=MARK, timestamp=REPORT["timestamp"]
        )
        assert upload.status == 422
        said.append(await upload.text())
        registration = {
            "device_id": str(uuid.uuid4()),
            "display_name": MARK,
            "group_id": "family",
            "platform": MARK,
            "fcm_token": MARK,
        }
        registered = await service.call("POST", "/api/v1/devices/register", json=registration)
        assert registered.status >= 400
        said.append(await registered.text())
        ready = await service.client.get("/api/health/ready")
        said.append(await ready.text())
        metrics = await service.metrics()
        assert metrics.total("activity_flush_keys_total", outcome="rejected") == 1
    written = capsys.readouterr()
    said += [written.out, written.err]
    assert "flush.rows_rejected" in written.out
    assert "violates check constraint" in written.out
    for text in said:
        assert MARK not in text
        assert str(LATITUDE) not in text
