"""The row of the dashboard about presence: offline devices, events, and webhooks."""

from api.monitoring.panels import Panel, Query, graph
from api.monitoring.promql import quantiles, rate


def presence() -> list[Panel]:
    """Return the panels about presence and events."""
    return [
        graph(
            "Devices by presence",
            "The active devices of the whole fleet, as stored. Every process shows the same.",
            Query("max by (presence) (activity_devices{P})", "{{presence}}"),
            alert="ActivityFleetSilent",
        ),
        graph(
            "Devices that fell silent",
            "Found offline, a second. Each is counted by the process that found it.",
            rate("presence_silenced_devices_total{P}", "instance", "{{instance}}"),
            unit="ops",
        ),
        graph(
            "Time until a device is found offline",
            "From the end of its timeout until its new state is stored.",
            *quantiles("presence_offline_delay_seconds", "{P}", "", ""),
            unit="s",
        ),
        graph(
            "Timers of watched devices",
            "About one for each device that is online; every process watches all devices.",
            Query("presence_timers{P}", "{{instance}}"),
        ),
        graph(
            "Times without a listener",
            "No process ran, or the database took no writes, in the last hour; and the seconds of"
            " the last 24 hours that are stored. That time counts for no device.",
            Query("sum by (job) (increase(presence_listening_gaps_total{P}[1h]))", "gaps"),
            Query(
                "sum by (job) (increase(presence_listening_gap_seconds_total{P}[1h]))", "seconds"
            ),
            Query("max by (job) (presence_recent_gap_seconds{P})", "seconds in 24 hours"),
        ),
        graph(
            "Events by type",
            "A second. Every process reads all events, so this is what the busiest one has read.",
            Query(
                "max by (type) (rate(events_followed_total{P}[$__rate_interval]))",
                "{{type}}",
            ),
            unit="ops",
            alert="ActivityEventsNotNumbered",
        ),
        graph(
            "Position of the newest event",
            "Processes with different positions: the lower one is behind.",
            Query("events_position{P}", "{{instance}}"),
            alert="ActivityEventsNotNumbered",
        ),
        graph(
            "Delay of events",
            "How long the oldest event of the last move waited in the outbox; no client can read it"
            " before.",
            Query("events_delay_seconds{P}", "{{instance}}"),
            unit="s",
            alert="ActivityEventsNotNumbered",
        ),
        graph(
            "Webhooks by state",
            "Failing: the last try was not accepted, so it is tried again.",
            Query("max by (state) (webhooks_by_state{P})", "{{state}}"),
            alert="ActivityWebhookFailing",
        ),
        graph(
            "Events sent to webhooks",
            "A second. Failed: given up. Expired: removed before they were sent. Dropped: not to be"
            " sent, because the device returned soon, or a summary replaces it.",
            rate("webhooks_events_total{P}", "outcome", "{{outcome}}"),
            unit="ops",
            alert="ActivityWebhookEventsLost",
        ),
        graph(
            "Longest failure of a webhook",
            "For how long the same batch has been tried.",
            Query("max by (job) (webhooks_failing_seconds{P})", "seconds"),
            unit="s",
            alert="ActivityWebhookFailing",
        ),
    ]
