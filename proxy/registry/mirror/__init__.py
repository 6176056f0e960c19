"""Images that come from an upstream registry when they are asked for: manifests first, layers as they are read.

    upstreams   the client of a rule's upstream, and what a failure there means here
    manifests   a tag or digest: served from here, refreshed, imported, or served stale
    referrers   what refers to an image upstream, imported beside what does here
    fetch       one layer on its way from the upstream to the store and to whoever waits for it
    spool       what has come of it, for readers that are behind
    blobs       which fetch an asked layer comes from: this worker's, another's, or a new one
    relay       the bytes of a fetch for other workers of the node

`Mirror` is what protocols see of all this. Called by `oci` and `ecr`; must not know HTTP (of the client's side), nor
who may do what: permissions come as a question to ask.
"""
