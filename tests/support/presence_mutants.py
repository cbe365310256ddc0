"""Deliberate breaks of presence, events and webhooks, as in `mutants`."""

from tests.support.mutants import Mutant

_MODEL = "tests/api/test_presence_model.py::test_presence_equals_the_model_in_any_history"
_PRESENCE = "tests/api/test_presence.py::"
_WEBHOOKS = "tests/api/webhooks/"

PRESENCE_MUTANTS = [
    Mutant(
        "silence counts while nothing listens",
        "presence/listening.py",
        "    WHERE listened_until < now() - interval '{GAP_S} s'\n    UNION",
        "    WHERE false\n    UNION",
        "AssertionError",
        _PRESENCE + "test_downtime_makes_no_device_offline",
        "api",
    ),
    Mutant(
        "a row is not read again under its lock",
        "presence/statements.py",
        "          AND {_OFFLINE_AT} <= now() AND {IS_LISTENING}\n",
        "",
        "AssertionError: false offline",
        "tests/api/test_presence_model.py::"
        "test_a_device_that_is_seen_after_its_row_was_read_is_not_offline",
        "api",
    ),
    Mutant(
        "a device with a pending touch is declared offline",
        "presence/watcher.py",
        "            if second is not None and second > seen:\n",
        "            if False:\n",
        "AssertionError",
        _PRESENCE + "test_a_device_with_a_pending_touch_is_not_declared_offline",
        "api",
    ),
    Mutant(
        "a device whose row was locked is never looked at again",
        "presence/watcher.py",
        "                self._wheel.add(again, silent[text])\n",
        "                pass\n",
        "AssertionError: missed",
        _MODEL,
        "api",
    ),
    Mutant(
        "a state is stored before its event, in another transaction",
        "presence/watcher.py",
        "            found = await self._database.fetch(\n                SILENCE,",
        "            await self._database.fetch(\n"
        '                "UPDATE devices SET is_online = false, event_seq = event_seq + 1 "\n'
        '                "WHERE device_id = ANY((SELECT $1::text)::uuid[]) AND is_online",\n'
        "                _array(silent),\n"
        "            )\n"
        "            found = await self._database.fetch(\n                SILENCE,",
        "AssertionError",
        _MODEL,
        "api",
    ),
    Mutant(
        "a touch that is as old as the silence ends it",
        "postgres/migrations/versions/0007_presence.py",
        "            IF is_back AND NEW.last_seen_at <= now() - interval '30 s' THEN\n",
        "            IF false THEN\n",
        "AssertionError",
        _PRESENCE + "test_a_touch_from_before_the_timeout_does_not_end_offline",
        "api",
    ),
    Mutant(
        "a cursor skips what is stored while its page is read",
        "events/log.py",
        '    if take == "newest":\n        rows = rows[::-1]\n',
        '    if take == "newest":\n        rows = rows[::-1]\n'
        "    ((last, removed),) = await database.fetch(_POSITION)\n",
        "AssertionError",
        "tests/api/test_events.py::"
        "test_an_event_that_is_stored_while_a_page_is_read_is_on_the_next_one",
        "api",
    ),
    Mutant(
        "two processes deliver a webhook at the same time",
        "webhooks/delivery_store.py",
        "    WHERE w.leased_until < now() AND w.paused_at IS NULL\n",
        "    WHERE w.paused_at IS NULL\n",
        "AssertionError",
        _WEBHOOKS + "test_leases.py::test_three_deliverers_send_each_batch_once_and_one_at_a_time",
        "api",
    ),
    Mutant(
        "a process that has lost its lease ends the batch of another one",
        "webhooks/delivery_store.py",
        "    WHERE id = $1 AND leased_by = $2 AND batch_id IS NOT NULL FOR UPDATE\n",
        "    WHERE id = $1 AND $2::uuid IS NOT NULL AND batch_id IS NOT NULL FOR UPDATE\n",
        "DID NOT RAISE",
        _WEBHOOKS + "test_leases.py::test_a_process_that_pauses_is_replaced_when_its_lease_ends",
        "api",
    ),
    Mutant(
        "a batch that is sent again has another id",
        "webhooks/delivery_store.py",
        'NewBatch(first["batch_id"], ',
        'NewBatch(first["batch_id"] + "-again", ',
        "AssertionError",
        _WEBHOOKS + "test_delivery.py::test_a_batch_that_failed_is_sent_again_as_it_was[close]",
        "api",
    ),
    Mutant(
        "a return that has no position yet is not waited for",
        "webhooks/filtering.py",
        "        return self._stored.newest_seq.get(device_id, 0) > last\n",
        "        return False\n",
        "AssertionError",
        _WEBHOOKS + "test_filtering.py::test_a_return_that_is_not_in_the_log_yet_is_waited_for",
        "api",
    ),
    Mutant(
        "an event overtakes one of its device that is held back",
        "webhooks/device_filter.py",
        "                state.held.append(event)\n                return\n",
        "                pass\n",
        "AssertionError",
        _WEBHOOKS + "test_filtering.py::test_an_event_that_is_held_back_delays_no_other_device",
        "api",
    ),
]
