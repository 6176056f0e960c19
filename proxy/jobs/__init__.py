"""Background work and operator's tasks over everything that is stored.

`schedule` runs `sweep` (removes what is abandoned) and `lifecycle` (carries out lifecycle policies) at intervals, one
node at a time through the metadata service; `previews` computes what a policy would do. `queue` does the jobs of the
durable queue, on every node; `pull_through` has those that keep images of upstreams fresh, through `image_fetch`. An
operator starts `check` and `quick` (verify rows, objects and `counts`), `rewrap` and `reseal` (change keys), `copy` (to
another store), `backup` and `warm` (fill the cache); `progress` is how a long task shows where it is. All of them walk
rows and store in bounded memory, can be interrupted anywhere, and remove rows before objects. Called by `app` and
`admin`. May import `registry` and below.
"""
