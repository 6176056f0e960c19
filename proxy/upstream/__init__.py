"""Requests to other registries and installations, bounded and with checked addresses.

`address` decides where a request may go, `challenge` and `access_key` with which credentials. All distrust the server:
addresses, realms, tokens and bodies are bounded and checked. `errors` has the failures. `rig` uses these for a registry
that its user named. For upstreams, which tenants' rules name, `client` has stricter rules: `realms` (redirects, and
where credentials go), `guarded_connector` (addresses) and `limits` (connections, requests, the upstream's own limit).
`referrers` and `trial` use that client; `peer` is the client of another installation. Called by `registry.mirror`,
`jobs`, `admin` and `rig`. May import `storage` (the circuit breaker), `observe` and `model`.
"""
