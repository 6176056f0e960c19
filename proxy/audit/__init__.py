"""Who did what, when and from where: one event in CloudTrail's shape for each call and each data-plane decision.

`events` makes the records, `trail` takes them from the protocols, samples (`sampling`) those without a caller, and
writes them through `outputs`, which chains the lines (`chain`); `verification` follows the chain. Protocols and jobs
call it; it calls none of them. No secret, token or signature is in an event. May import `model` and `observe`.

Turned down: a table of events in the database (a pull would cost a write); syslog (its daemons drop under load).
"""
