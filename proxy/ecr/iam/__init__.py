"""IAM's door: users, groups, roles, policies, providers, as `aws iam`, boto3 and Terraform ask for them.

`actions` is the visible table: what each action is asked on, and with which condition keys; `asking` makes whole ARNs
and values of it; `door` asks the evaluator and then the rows, which speak the same language. Reading a form and writing
XML is `shapes.query`'s, the signature `ecr.signed`'s; both are the dispatcher's to call.

Turned down: an operation that is permitted only (`iam:PassRole`), since nothing here passes a role on; deciding where
the rows are (they would have to know requests); login profiles, MFA devices, SAML, server certificates.
"""

from __future__ import annotations

from proxy.ecr.iam.calls import Iam as Iam
