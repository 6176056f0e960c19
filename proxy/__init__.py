"""Wharfage: a self-hosted container registry that answers as Amazon ECR and as an OCI registry.

The rooms, from the street down (imports go down only; names joined by `|` never import each other):

    __main__ > cli > keeping | accounts | rigging > flags > rig | visit > serve > server > doors > rooms > administrator
             > stores | keyring | trails > service | probes > oci | ecr > pulls > upkeep > registry > blob
             > storage | metadata | process > auth | audit > shapes > observe > config > plaintext > settings > model
             > _speedups

`tests/unit/house/test_import_direction.py` reads this drawing and holds every module to it.

Each folder's `__init__` says why the room is there and what it may import.
"""
