"""Objects in a bucket of S3 or a compatible store.

`store` is the store and `context` what its parts share. Writing: `append` adds to an object, `parts` uploads its parts,
`eager_put` sends a small one whole, `complete` finishes it; `lease` allows a writer no request after its lease ended;
`part_buffers` bounds the memory of all uploads; `stall_clock` records an idle upload's tail. Reading:
`read`; `signed_urls` lets clients fetch from the bucket. Requests: `bucket` over aiobotocore, with `retries` and a
`circuit_breaker`; `session`, `connection`, `requests`, `sigv4` and `checksums` send bodies; `botocore_internals`
has all private members that are used. `marker` is the identity of the store in the bucket.
"""
