"""The metadata service as a proxy calls it.

`client` has one method for each operation, `endpoints` chooses the service that gets a request, `connections` sends
its frame over a unix socket or TCP (`addresses`), `cache` keeps answers while the epoch page (`epochs`) shows that
nothing changed. Called by `app`; everything else sees `contract`.
"""
