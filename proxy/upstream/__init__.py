"""Requests to other registries: `address` decides where a request may go, `challenge` with which credentials.

Both distrust what a server sends: addresses, realms, tokens and bodies are bounded and checked. `errors` is what goes
wrong. `rig` uses these for a registry that a person named. For upstreams, which tenants' rules name, `client` asks
under stricter rules: `realms` (redirects, and where credentials go), `guard` (which addresses are connected to) and
`limits` (connections, requests, the upstream's own limit). May import the names and limits of `model`, and the circuit
breaker of `storage`; must not know whose registry it asks.
"""
