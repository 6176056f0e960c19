"""AWS's own managed policies, by ARN: what can be attached in every account and changed in none.

Source: AWS Managed Policy Reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ManagedPolicy:
    """`version` is AWS's default version at the time; `created` and `updated` are epoch seconds."""

    policy_id: str
    arn: str
    path: str
    name: str
    description: str
    version: int
    document: str
    created: float
    updated: float


ADMINISTRATOR_ACCESS = "arn:aws:iam::aws:policy/AdministratorAccess"

AWS_MANAGED: Mapping[str, ManagedPolicy] = {
    ADMINISTRATOR_ACCESS: ManagedPolicy(
        "ANPAIWMBCKSKIEE64ZLYK",
        ADMINISTRATOR_ACCESS,
        "/",
        "AdministratorAccess",
        "Provides full access to AWS services and resources.",
        1,
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}',
        1423219200.0,
        1423219200.0,
    ),
}
