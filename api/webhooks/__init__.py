"""Webhooks: stored events of devices are sent to URLs, signed, at least once and in order.

`registry` has what the command line does to webhooks; `store` what a process needs to deliver:
leases, batches and outcomes. `deliverer` runs the deliveries of a process, `sender` makes one
request. `addresses` says which URLs and addresses are allowed, `signing` signs, `retries` says when
to try again.
"""
