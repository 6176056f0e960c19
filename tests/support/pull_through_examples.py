"""One call of each operation on rows about pull-through cache rules and secrets, for the tests of every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import pull_through, secrets

ARN = "arn:aws:secretsmanager:us-east-1:{}:secret:{}-AbCdEf"


def of_pull_through(tx: Transaction, account: str) -> Mapping[str, Callable[[], Any]]:
    """By name, in an order in which each finds what it is about."""
    arns = [ARN.format(account, name) for name in "ab"]
    prefixes = [{"ecrRepositoryPrefix": each} for each in ("aa", "bb")]

    def write(action: str, sealed: bytes = b"", **parameters: Any) -> None:
        secrets.write_secrets(tx, account, action, parameters, sealed)

    def written() -> None:
        for number, arn in enumerate(arns):
            write("CreateSecret", b"one", Name="ab"[number], ARN=arn, ClientRequestToken="1")
            write("PutSecretValue", b"two", SecretId=arn, ClientRequestToken="2")
        write("UpdateSecretVersionStage", SecretId=arns[0], VersionStage="MINE", MoveToVersionId="2")
        write("UpdateSecret", b"three", SecretId=arns[0], ClientRequestToken="3", Description="d")
        write("TagResource", SecretId=arns[0], Tags=[{"Key": "k", "Value": "v"}])
        write("UntagResource", SecretId=arns[0], TagKeys=["k"])
        write("DeleteSecret", SecretId=arns[1])
        write("RestoreSecret", SecretId=arns[1])
        write("DeleteSecret", SecretId=arns[1], ForceDeleteWithoutRecovery=True)

    return {
        "CreatePullThroughCacheRule": lambda: [
            pull_through.create_rule(tx, account, {**prefix, "upstreamRegistryUrl": "quay.io"}) for prefix in prefixes
        ],
        "DescribePullThroughCacheRules": lambda: [
            pull_through.describe_rules(tx, account, asked)
            for asked in ({"maxResults": 1}, {"ecrRepositoryPrefixes": ["aa", "bb"]})
        ],
        "UpdatePullThroughCacheRule": lambda: pull_through.update_rule(tx, account, prefixes[0]),
        "pull_through_rules": lambda: pull_through.pull_through_rules(tx, account),
        "DeletePullThroughCacheRule": lambda: [pull_through.delete_rule(tx, account, each) for each in prefixes],
        "write_secrets": written,
        "read_secrets": lambda: [
            secrets.read_secrets(tx, account, action, {"SecretId": arns[0]})
            for action in ("DescribeSecret", "ListSecrets", "ListSecretVersionIds", "GetResourcePolicy")
        ],
        "secret": lambda: [secrets.secret(tx, account, each) for each in (arns[0], "a", "none")],
        "secret_version": lambda: secrets.secret_version(tx, account, arns[0]),
        "find_secret_version": lambda: secrets.find_secret_version(tx, account, arns[0], "3", "AWSCURRENT"),
        "sealed_versions": lambda: secrets.sealed_versions(tx, (arns[0], "2"), 9),
        "replace_sealed_version": lambda: secrets.replace_sealed_version(tx, arns[0], "3", b"three", b"new"),
        "remove_secrets": lambda: secrets.remove_secrets(tx, 9),
    }
