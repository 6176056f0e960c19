"""Requests to other registries: `address` decides where a request may go, `challenge` with which credentials.

Both distrust what a server sends: addresses, realms, tokens and bodies are bounded and checked. `errors` is what goes
wrong. `guarded_connector` is for addresses that a tenant chose. Called by `rig` and `jobs`. May import
the names and limits of `model`; must not know whose registry it asks.
"""
