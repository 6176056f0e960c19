"""What a registry does, whoever asks: upload a blob, read a blob, push and resolve images.

Doors (`oci`, `ecr`) translate a protocol into these journeys and back. May import `blob`, `storage`, `metadata.contract`,
`auth`, `observe`, `model`; must not know HTTP.
"""
