"""What operators need to watch the service: alerts, their runbook, log events, and a dashboard."""
