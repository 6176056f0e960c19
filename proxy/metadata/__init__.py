"""Metadata: the services that own every row, and the client that calls them.

`contract` lists what a proxy can ask; `client/` calls it and caches answers; `service/` answers through `operations/`
over the rows in `db/`; `cluster/` keeps caches correct where there are several services and nodes. `wire` is the
encoding between the two, `deadlines` the age of a request. It never sees a layer's plaintext. `oci`, `ecr`, `registry`
and `jobs` import `contract` only; `app` connects the rest. May import `http`, `runtime`, `auth`, `awsmodel`, `observe`,
`config` and `model`.
"""
