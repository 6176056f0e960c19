"""What a registry does, whoever asks: upload a blob, read a blob, push and resolve images.

Doors (`oci`, `ecr`) translate a protocol into these journeys and back. May import `blob`, `storage`, `auth`, `observe`,
`model` and `metadata.contract`; must not know HTTP.
"""
