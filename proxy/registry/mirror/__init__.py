"""Images fetched from an upstream registry on demand: manifests first, layers while they are read.

    upstreams        the client of a rule's upstream, and what its failures mean here
    manifests        a tag or digest: served from the rows, refreshed, imported, or served stale
    referrers        the upstream's referrers of an image, imported beside the local ones
    blobs            chooses the source of a layer: the store, the upstream, another worker or another node
    fetch            fills a worker's copy of a layer, from the upstream or from another copy
    layer_copy       one worker's copy of a layer that is being fetched, for its readers
    spool            the bytes of a copy so far, for readers that are behind
    upload_session   the upload session by which a fetch stores the layer
    relay, peers     the bytes of a copy for other workers of the node, and for other nodes

`Mirror` is the interface for protocols and jobs. Made by `app.mirror`, called by `oci`, `ecr` and `jobs`. Must not know
the client's HTTP, nor policies: callers pass a function that decides permissions.
"""
