"""Wharfage: a self-hosted container registry that answers as Amazon ECR and as an OCI registry.

The packages, from the command line down. Imports go down only; names joined by `|` never import each other:

    __main__ > cli > admin > app > rig | oci | ecr > jobs > registry > upstream | blob > storage | metadata
             > http > runtime > auth > audit | awsmodel > observe > config > model > _speedups

`tests/unit/house/test_import_direction.py` reads this list and checks every module against it.

Each package's `__init__` says what it is for, who calls it and what it may import.
"""
