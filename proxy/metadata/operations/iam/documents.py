"""Validates policy documents by their kind and quota. Called by the modules that store them."""

from __future__ import annotations

from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.validation import iam_failure, validate
from proxy.metadata.operations.iam import quotas


def check_identity_policy(text: str) -> str:
    """A policy for a user, group or role. Failure(MalformedPolicyDocument)."""
    try:
        validate(text, PolicyKind.IDENTITY)
    except PolicyError as error:
        raise iam_failure(error) from error
    return text


def check_managed_policy(text: str) -> str:
    """A version of a managed policy. Failure(MalformedPolicyDocument, LimitExceeded)."""
    quotas.check_document(quotas.MANAGED_POLICY_SIZE, text)  # first: compiling a long document takes long
    return check_identity_policy(text)
