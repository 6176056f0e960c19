"""How each error of the operations on pull-through cache rules comes about, as `error_cases` has those of the rest."""

from __future__ import annotations

from proxy.model.secrets import secret_arn
from support.boto_registry import SMALL, BotoRegistry
from support.error_cases import Given, given, raises
from support.examples import ACCOUNT, REGION

RULE: Given = {"ecrRepositoryPrefix": "made", "upstreamRegistryUrl": "quay.io"}
NAME = "ecr-pullthroughcache/quay"
ARN = secret_arn(REGION, ACCOUNT, NAME, "AbCdEf")
PREFIX: Given = {"ecrRepositoryPrefix": "absent"}

given("UnsupportedUpstreamRegistry", "CreatePullThroughCacheRule", {**RULE, "upstreamRegistryUrl": "harbor.example"})
given("PullThroughCacheRuleNotFound", "DescribePullThroughCacheRules", {"ecrRepositoryPrefixes": ["absent"]})
for _operation in ("Update", "Delete", "Validate"):
    given("PullThroughCacheRuleNotFound", f"{_operation}PullThroughCacheRule", PREFIX)


@raises("PullThroughCacheRuleAlreadyExists", "CreatePullThroughCacheRule")
async def a_rule(registry: BotoRegistry) -> Given:
    rules = (await registry.do("DescribePullThroughCacheRules"))["pullThroughCacheRules"]
    if "made" not in [rule["ecrRepositoryPrefix"] for rule in rules]:
        await registry.do("CreatePullThroughCacheRule", **RULE)
    return RULE


@raises("LimitExceeded", "CreatePullThroughCacheRule")
async def rules_up_to_the_quota(registry: BotoRegistry) -> Given:
    rules = (await registry.do("DescribePullThroughCacheRules"))["pullThroughCacheRules"]
    for number in range(len(rules), SMALL.pull_through_rules):
        await registry.do("CreatePullThroughCacheRule", ecrRepositoryPrefix=f"p{number}", upstreamRegistryUrl="quay.io")
    return {**RULE, "ecrRepositoryPrefix": "more"}


async def _asked(registry: BotoRegistry) -> Given:
    return {**await a_rule(registry), "ecrRepositoryPrefix": "made", "credentialArn": ARN}


async def _secret(registry: BotoRegistry, sealed: bytes) -> None:
    metadata = registry.whole.metadata
    if await metadata.secret(ACCOUNT, ARN) is None:
        await metadata.write_secrets(ACCOUNT, "CreateSecret", {"Name": NAME, "ARN": ARN})
    if sealed:
        asked = {"SecretId": ARN, "ClientRequestToken": "v" * 36}
        await metadata.write_secrets(ACCOUNT, "PutSecretValue", asked, sealed=sealed)


def _for(operation: str, asked: Given) -> Given:
    return asked if operation.startswith("Create") else {k: v for k, v in asked.items() if k != "upstreamRegistryUrl"}


for _operation in ("CreatePullThroughCacheRule", "UpdatePullThroughCacheRule"):

    @raises("SecretNotFound", _operation)
    async def no_secret(registry: BotoRegistry, operation: str = _operation) -> Given:
        metadata = registry.whole.metadata
        if await metadata.secret(ACCOUNT, ARN) is not None:
            gone = {"SecretId": ARN, "ForceDeleteWithoutRecovery": True}
            await metadata.write_secrets(ACCOUNT, "DeleteSecret", gone)
        return _for(operation, await _asked(registry))

    @raises("UnableToAccessSecret", _operation)
    async def a_secret_without_a_value(registry: BotoRegistry, operation: str = _operation) -> Given:
        await _secret(registry, b"")
        return _for(operation, await _asked(registry))

    @raises("UnableToDecryptSecretValue", _operation)
    async def a_value_that_does_not_open(registry: BotoRegistry, operation: str = _operation) -> Given:
        await _secret(registry, b"nothing that was sealed here")
        return _for(operation, await _asked(registry))
