"""Who did what, when and from where: one event in CloudTrail's shape for each call and each data-plane decision.

`events` makes the records, `trail` takes them from the doors, samples (`sampling`) those without a caller, and hands
them to the kernel through `outputs`, which chains the lines (`chain`); `verification` follows the chain. Doors tell it
what happened; it asks nobody. No secret, token or signature has a place in an event. May import `model` and `observe`.

Turned down: a table of events in the database (a pull would cost a write); syslog (its daemons drop under load).
"""
