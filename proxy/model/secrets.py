"""Secrets of an account as rows hold them: who they are, and their values as a worker has sealed them.

    arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX      SUFFIX: six random letters and digits

A secret is named by its ARN, its ARN without the suffix, or its name. Must not know what is in a value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CURRENT, PREVIOUS = "AWSCURRENT", "AWSPREVIOUS"
"""The staging labels of the version that counts, and of the one before it."""
PULL_THROUGH_PREFIX = "ecr-pullthroughcache/"
"""What the name of a secret begins with that a pull-through cache rule may log in with."""

_ARN = re.compile(r"arn:aws:secretsmanager:([a-z0-9-]+):([0-9]{12}):secret:(.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class SecretHead:
    """What decisions about a secret need. `deleted_at`: when it goes for good, of one that is deleted."""

    arn: str
    name: str
    tags: tuple[tuple[str, str], ...] = ()
    deleted_at: float | None = None


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """A value; `sealed` is bound to ARN and version."""

    arn: str
    version_id: str
    sealed: bytes
    stages: tuple[str, ...]
    created_at: float


def secret_arn(region: str, account: str, name: str, suffix: str = "") -> str:
    """`suffix` empty: the ARN of a secret that is not there, as policies are asked about it."""
    return f"arn:aws:secretsmanager:{region}:{account}:secret:{name}{'-' if suffix else ''}{suffix}"


def parse_secret_arn(text: str) -> tuple[str, str, str] | None:
    """Region, account and the rest of an ARN; None for what is none, as a name."""
    found = _ARN.fullmatch(text)
    return (found[1], found[2], found[3]) if found else None
