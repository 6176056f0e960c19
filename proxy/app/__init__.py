"""Composition: the only package that knows all others.

`processes` starts a server's processes, `worker` is one process that answers HTTP, `metadata` the process of the
metadata service. `context` builds what the handlers of a worker share; `router` finds the handler of a request;
`stores`, `keys` and `audit` build an object store, a key provider and an audit trail from the settings; `bootstrap`
makes the first administrator; `health` answers the probes. Called by `cli` and `admin`.
"""
