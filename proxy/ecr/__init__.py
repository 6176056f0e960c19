"""The door for aws: JSON 1.1 with SigV4 (`ecr`), the query protocol (`sts`).

`routes` is the visible table of targets; rows are asked of `metadata.contract`. Never imports `oci`.
"""
