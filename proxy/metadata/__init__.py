"""The services that own every row, and the only way to ask them.

`contract` is the language: ECR operations as (operation, JSON), and the few internal ones a data plane needs. `client`
speaks it over HTTP, `cache` answers again what is proven unchanged, `service` + `operations/*` + `store` + `schema` are
the other side. It never sees a layer's plaintext. Several services may write one PostgreSQL: how answers kept on any
node stay true is in `invalidation`, done by `peers`, `nodes`, `watch` and `grace`. Doors and journeys import `contract`
only; `server` wires the rest. May import `model` and `observe`.
"""
