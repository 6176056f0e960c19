"""The metadata service as a proxy calls it.

`client` makes one request per operation, `endpoints` picks the service that gets it (`addresses`: over TLS, `unix`:
on this machine), `cache` keeps answers while the epoch page (`epochs`) shows that nothing changed, `open_objects` is
the port that object stores record unfinished objects through. Called by `app`; everything else sees `contract`.
"""
