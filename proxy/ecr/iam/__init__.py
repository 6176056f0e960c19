"""IAM's API: users, groups, roles, policies, providers, for `aws iam`, boto3 and Terraform.

`actions` is the table of actions with their resources and condition keys; `required_permissions` makes full ARNs and
values of it; `calls` calls the evaluator and then the rows. `ecr.query` checks the signature, reads the form and writes
the XML, with `awsmodel.query`.

Turned down: the permission `iam:PassRole`, since nothing here passes a role on; deciding where
the rows are (they would have to know requests); login profiles, MFA devices, SAML, server certificates.
"""

from __future__ import annotations

from proxy.ecr.iam.calls import Iam as Iam
