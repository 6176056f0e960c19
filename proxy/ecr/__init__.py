"""The door for aws: JSON 1.1 with SigV4 (`ecr`), the query protocol (`sts`, `iam`).

`routes` is the visible table of targets; rows are asked of `metadata.contract`. Never imports `oci`.

`services` tells from a request's head whose it is and what that service wants of a signature; `signed` proves a request
and only then reads it, whole or streamed, through `bodies`, and `streamed` takes a huge member out of a body as it
comes; `layers` takes layers in parts, which `spool` sets aside until they are proven, and gives out links, which
`downloads` serves; `lastuse` notes when keys and roles were used; `parameters` is what the door must know of a body
before it forwards it, and what the policies are asked about it; `query` turns forms into calls of `sts` and `iam`;
`lockout` keeps who sets a policy from shutting itself out; `authorization` and `sts` are answered here, everything else
where the rows are; `record` is what the audit trail hears of a call; `errors` renders every failure.

Turned down: validating against the API model here what is forwarded (it is done once, beside the rows); botocore's own
signer for checking (it signs, by a clock of its own); rendering errors beside the code that raises them.
"""
