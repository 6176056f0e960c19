"""Who asks, and may they: SigV4, tokens, small sealed values, the policy decision.

Pure decisions: clock and look-ups are passed in, so every rule is a table of tests. May import `shapes` and `model`.

`envelope` seals small values, `secrets` those of access keys, `passphrase` whole files, `sealedjson` documents as one
word; `tokens` is docker's password and `identity` reads it off a request; `sigv4` checks what the AWS SDKs sign, over
what `canonical` spells and with what `signingkeys` derives; `sessions` are temporary credentials, and `webidentity` is
what an OpenID Connect issuer vouches for; `callers` makes one object of whoever asks, for all doors; `rates` says
how often they may, `failedlogins` how often they may fail to say who they are, and `access` what: what every door asks,
with `policy`, the one evaluator, behind it.

Turned down: JWT and Fernet for tokens (readable by whoever holds one, or a cipher without associated data); one
AES-GCM key with random nonces (2^32 values, then a rotation); a table of issued tokens (a token names a principal, and
ends with it); the evaluators on PyPI (they list, lint, or speak another language than IAM's).
"""
