"""SetRepositoryPolicy without `force` refuses a policy that would lock out its own author.

It guards against a mistake and is no access rule, so it need not be atomic with setting the policy.
"""

from __future__ import annotations

from proxy.auth.policy.context import request_context
from proxy.auth.policy.lockout import would_lock_out
from proxy.ecr.parameters import Ask, named_repository
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure


async def refuse_lockout(ask: Ask, metadata: Metadata) -> None:
    """InvalidParameter for a policy after which the caller could not set another one, or for an invalid one.

    The operation checks everything else."""
    name, text = ask.parameters["repositoryName"], ask.parameters.get("policyText")
    held = await metadata.repository_access(ask.account, name)
    if not held.exists or not isinstance(text, str):
        return
    bound = await metadata.bind_repository_policy(ask.account, text)
    registry = await metadata.registry_access(ask.account)
    (resource,) = named_repository(ask)
    context = request_context(ask.caller, ask.info, resource, held.tags)
    if would_lock_out(ask.caller, text, bound.principals, held, registry, resource, context):
        raise Failure(
            Code.INVALID_PARAMETER,
            "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided': "
            "with it you could not set another policy; use force to set it all the same",
        )
