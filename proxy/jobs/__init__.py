"""Background work and operator's tasks over everything that is stored.

`schedule` runs `sweep` (removes what is abandoned) and `lifecycle` (applies lifecycle policies) at intervals, one node
at a time through the metadata service; `previews` computes what a policy would do. `queue` runs the jobs of the durable
queue on every node: `pull_through` and `cache_size` (cached images of upstreams, through `image_fetch`), `replication`
(through `replication_here` and `replication_peer`), `event_delivery` (to `event_targets`) and `archive`. An operator
starts `check` and `quick` (verify rows, objects and `counts`), `rewrap` and `reseal` (change keys), `copy` (to another
store), `backup` and `warm` (fill the cache); `progress` reports how far a long task is. All of them walk rows and store
in bounded memory, can be interrupted anywhere, and remove rows before objects. Called by `app`, `admin` and `ecr`. May
import `registry` and below.
"""
