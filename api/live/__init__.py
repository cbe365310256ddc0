"""Live view of a group: one snapshot that is kept up to date while the group has subscribers.

All subscribers of a group share the snapshot, the queries and the encoded bytes. A group without
subscribers costs nothing. Data flow one way: database and pending touches -> `GroupSnapshot` ->
`Group`, which encodes the changes once a second -> `Stream`, one for each subscriber.
"""
