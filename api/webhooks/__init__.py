"""Webhooks: stored events of devices are sent to URLs, signed, at least once and in order.

`filtering` decides which events a webhook is sent, which are held back and which are dropped: a
pure function over the rows that `state_store` reads and stores. `rules` and `device_filter` have
what holds for a device, `outages` what holds for a group, `snoozes` and `quiet` what holds for
times, `sizes` counts devices of groups.

`registry` has what the command line does to webhooks; `delivery_store` what a process needs to
deliver: leases, batches and outcomes. `deliverer` runs the deliveries of a process, `sender` makes
one request. `addresses` says which URLs and addresses are allowed, `signing` signs, `retries` says
when to try again.
"""
