"""What is seen live of a group: one picture of it, kept up to date while somebody watches.

All watchers of a group share the picture, the look at the database and the bytes that are sent; a
group that nobody watches costs nothing. Data flow one way: database and pending touches -> `Fleet`
-> `Group`, which encodes what changed once a second -> `Stream`, one for each watcher.
"""
