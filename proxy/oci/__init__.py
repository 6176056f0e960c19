"""The door for docker: OCI Distribution 1.1.1 and today's main, over aiohttp.

`routes` is the visible table and the one place that authenticates and authorises; `call` is one such request; `blobs`,
`uploads`, `manifests` translate; `told` is what the audit trail hears of it; `errors` renders every Failure in one
place. Never imports `ecr`.
"""
