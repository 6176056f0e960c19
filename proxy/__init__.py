"""Wharfage: a self-hosted container registry that answers as Amazon ECR and as an OCI registry.

The rooms, from the street down (imports go down only; names joined by `|` never import each other):

    __main__ > cli > server > oci | ecr > upkeep > registry > blob > storage | metadata | auth
             > observe | config > model > _speedups

Each folder's `__init__` says why the room is there and what it may import.
"""
