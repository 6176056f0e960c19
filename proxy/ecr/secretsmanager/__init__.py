"""Secrets Manager, as far as clients of a registry use it: where pull-through cache rules have their credentials.

    calls        one call: the secret it means, whether it is allowed, the rows
    arguments    what of an input the model's shapes cannot say

Values are sealed before they leave the worker and opened in it (`auth.secrets`); no log line, audit event or error has
one. Operations that are not in `ACTIONS` are unknown ones: rotation, replication and resource policies have no part
here. May import `auth`, `awsmodel`, `metadata.contract`, `model`; must not know pull-through rules.
"""

from proxy.ecr.secretsmanager.calls import ACTIONS as ACTIONS
from proxy.ecr.secretsmanager.calls import SecretsManager as SecretsManager
