"""The AWS APIs: JSON 1.1 with SigV4 (`ecr`, `secretsmanager`, `events`), the query protocol (`sts`, `iam`).

Called by `app.router`. Calls `metadata.contract` for rows. Never imports `oci`.

`routes` has the table of ECR's operations. `services` finds a request's service by its head; `signed_request` checks
the signature, then reads the body through `bodies` and `body_limiter`, or streams a huge member with `streaming_json`.
`parameters` reads what policies need of a body. `layers` takes layers in parts, kept in `encrypted_temp_file` until the
signature is checked, and makes the links that `downloads` serves. `query` reads forms for `sts` and `iam`;
`json_services`, `eventbridge` and `secretsmanager` are the other services. `repository_keys` and `key_rights` handle
KMS keys, `pull_through` and `upstream_images` upstreams; `lockout` refuses a policy that would lock out its author;
`last_use` records uses of keys and roles; `audit_record` makes audit events; `errors` renders every failure.

Turned down: validating forwarded calls here (it is done once, beside the rows); botocore's signer for checking (it
signs, with its own clock); rendering errors beside the code that raises them.
"""
