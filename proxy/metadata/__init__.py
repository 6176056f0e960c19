"""The service that owns every row, and the only way to ask it.

`contract` is the language: ECR operations as (operation, JSON), and the few internal ones a data plane needs. `client`
speaks it over HTTP, `cache` answers again what is proven unchanged, `service` + `operations/*` + `store` + `schema` are
the other side. It never sees a layer's plaintext. Doors and journeys import `contract` only; `server` wires the rest.
May import `model` and `observe`.
"""
