"""Several metadata services and many nodes on one PostgreSQL: no node answers from what another has changed.

`protocol` states the protocol, its times and its messages. On a service, `membership` registers it among the others
(`pg_registry` has the tables), `subscribers` are the nodes that hold leases from it, `lag` drops those that fall back,
`acknowledgements` makes a write wait until others know of it, `reachability` checks that services can call each other,
and `outage` decides what stays valid while the database is gone. On a node, `subscriber` keeps its epoch page current
through a `subscription` to each service. Called by `metadata.service` and `app`.
"""
