"""Secrets Manager, as far as clients of a registry use it: it has the credentials of pull-through cache rules.

    calls        one call: finds the secret, checks permission, calls the metadata service
    arguments    checks of an input beyond the model's shapes

Values are sealed before they leave the worker and opened in it (`auth.secrets`); no log line, audit event or error has
one. Operations that are not in `ACTIONS` are unknown: rotation, replication and resource policies are not served.
Called by `ecr.json_services`. May import `auth`, `awsmodel`, `metadata.contract`, `model`; must not know pull-through
rules.
"""

from proxy.ecr.secretsmanager.calls import ACTIONS as ACTIONS
from proxy.ecr.secretsmanager.calls import SecretsManager as SecretsManager
