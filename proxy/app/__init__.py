"""Composition: builds the processes from the settings. The only package that knows all others.

`processes` starts a server's processes; `worker` has what each of them runs. `context` builds what the handlers of a
worker share; `router` finds the handler of a request; `stores`, `keys`, `metadata` and `audit` build an object store, a
key provider, a metadata client and an audit trail from the settings; `mirror`, `replication`, `events` and `archive`
build those jobs; `bootstrap` makes the first administrator; `health` answers the probes. Called by `cli` and `admin`.
"""
