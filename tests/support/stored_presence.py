"""Devices with whatever a table may say of their presence."""


async def any_presence(db) -> None:
    """Store devices of the groups "short", "long" and "none", some with times of their own."""
    await db.execute(
        "INSERT INTO group_settings (group_id, offline_after_s) "
        "VALUES ('short', 60), ('long', 7200)"
    )
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, offline_after_s) "
        "SELECT gen_random_uuid(), 'Phone', "
        "(ARRAY['short', 'long', 'none'])[1 + n % 3], 'android', "
        "(ARRAY[NULL, 40, 3000])[1 + n % 7 % 3] "
        "FROM generate_series(1, 600) AS n"
    )
    await db.execute("ALTER TABLE devices DISABLE TRIGGER presence_changes")
    await db.execute(
        "UPDATE devices SET last_seen_at = CASE WHEN random() < 0.1 THEN NULL ELSE "
        "date_trunc('second', now()) - make_interval(secs => "
        "  (ARRAY[5, 45, 90, 200, 1000, 5000, 9000])[1 + floor(random() * 7)::int]) END, "
        "is_online = (ARRAY[true, false, NULL])[1 + floor(random() * 3)::int]"
    )
    await db.execute(
        "UPDATE devices SET presence_since = last_seen_at + make_interval(secs => "
        "  (ARRAY[-100, 0, 20])[1 + floor(random() * 3)::int])"
    )
