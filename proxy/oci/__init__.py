"""The OCI Distribution API (1.1.1 and today's main) that docker and other OCI clients speak, over aiohttp.

`routes` is the visible table, and the one place that authenticates and authorises; `call` is one such request; `blobs`,
`uploads` and `manifests` translate requests to `registry` and back; `audit_record` makes the audit event of a request;
`cacheability` says when a response may be repeated; `errors` renders every Failure. Called by `app.router`. Never
imports `ecr`.
"""
