"""For whoever watches the service: alerts, their runbook, log events, and a dashboard."""
