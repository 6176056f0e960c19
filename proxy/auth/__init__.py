"""Authentication and authorisation: SigV4, tokens, small sealed values, the policy decision.

Pure decisions: clock and look-ups are passed in, so every rule is a table of tests. Called by `oci`, `ecr`, `jobs`,
`metadata` and `app`. May import `awsmodel`, `observe` and `model`.

Sealing: `envelope` seals small values, `secrets` access keys and secret values, `event_secrets` what signs events,
`passphrase` whole files, `sealed_json` documents as one token. Authentication: `sigv4` checks signatures over the
`canonical` request with `signing_keys`; `identity` reads docker's password (`tokens`); `sessions` are temporary
credentials, `web_identity` OpenID Connect tokens, `layer_links` links to layers, `revocation` revokes; `callers` makes
one `Caller` for all protocols; `failed_logins` slows down guessing. Authorisation: `access` decides with the evaluator
in `policy` and AWS's policies in `managed`; `rates` limits requests. `pull_through` opens upstream credentials.

Turned down: JWT and Fernet for tokens (readable by the holder, or a cipher without associated data); one AES-GCM key
with random nonces (2^32 values, then a rotation); a table of issued tokens (a token names a principal, and ends with
it); the evaluators on PyPI (they list, lint, or implement another language than IAM's).
"""
