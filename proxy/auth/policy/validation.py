"""Validates a document before it is stored, by the rules of its kind of policy; reports the first fault.

`compile_document` checks the grammar that all kinds share; this module has each kind's own rules. Identity policies may
name any service's actions; those of repositories and registries only ECR's existing actions. Faults are PolicyError;
`ecr_failure` and `iam_failure` translate them into each service's texts.

Sources: IAM User Guide, "Policies and permissions"; ECR User Guide, "Repository policies", "Registry permissions".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from proxy.auth.policy.decision import V1_ACTIONS
from proxy.auth.policy.documents import Document, Statement, compile_document
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.evaluation import PolicyKind
from proxy.auth.policy.principals import Principals
from proxy.awsmodel import models
from proxy.model.errors import Code, Failure
from proxy.model.identity import PolicyScope

ECR_TEXT_MAX = 10_240  # characters of a repository's or a registry's policy


def validate(text: str, kind: PolicyKind, *, account: str = "", scope: PolicyScope = PolicyScope.V2) -> Document:
    """The compiled document, or PolicyError. `account` and `scope` are a registry's, and must be given for one."""
    if kind in (PolicyKind.REPOSITORY, PolicyKind.REGISTRY) and len(text) > ECR_TEXT_MAX:
        raise PolicyError(f"The policy is longer than {ECR_TEXT_MAX} characters")
    document = compile_document(text)
    if not document.statements:
        raise PolicyError("Syntax errors in policy. The policy has no statements")
    rules = _registry_rules(account, scope) if kind is PolicyKind.REGISTRY else _RULES[kind]
    if kind not in (PolicyKind.REPOSITORY, PolicyKind.REGISTRY):
        _check_sids(document)
    for statement in document.statements:
        try:
            rules(statement)
        except PolicyError as error:
            raise PolicyError(error.reason, statement.index, statement.sid) from None
    return document


def ecr_failure(error: PolicyError, kind: PolicyKind) -> Failure:
    """ECR's failure for an invalid repository or registry policy, with the fault."""
    return _ecr_failure(f"Invalid {kind} policy provided", error)


def ecr_principal_failure(error: PolicyError) -> Failure:
    """ECR's failure for a policy that names an unknown principal. Terraform retries on this text."""
    return _ecr_failure("Principal not found", error)


def iam_failure(error: PolicyError) -> Failure:
    """IAM's and STS's failure for an invalid document."""
    return Failure(Code.MALFORMED_POLICY_DOCUMENT, str(error))


def _ecr_failure(constraint: str, error: PolicyError) -> Failure:
    return Failure(
        Code.INVALID_PARAMETER,
        f"Invalid parameter at 'PolicyText' failed to satisfy constraint: '{constraint}': {error}",
        parameter="PolicyText",
    )


Rules = Callable[[Statement], None]

_SID = re.compile(r"[0-9A-Za-z]*")
_TRUST_ACTIONS = frozenset(
    (
        "sts:assumerole",
        "sts:assumerolewithsaml",
        "sts:assumerolewithwebidentity",
        "sts:setcontext",
        "sts:setsourceidentity",
        "sts:tagsession",
    )
)
_FEDERATED = re.compile(
    r"arn:aws:iam::[0-9]{12}:(?:oidc|saml)-provider/[\x21-\x7e]{1,255}|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
)
# Permissions without an operation of their own. Source: Service Authorization Reference, "Actions defined by Amazon
# Elastic Container Registry"; the operations themselves are the installed model's.
_PERMISSION_ONLY = frozenset(("batchimportupstreamimage", "getimagecopystatus", "replicateimage"))
_OF_REPOSITORY = frozenset(("repositoryName", "repositoryNames", "resourceArn"))


def _check_sids(document: Document) -> None:
    seen = set()
    for statement in document.statements:
        if not _SID.fullmatch(statement.sid):
            raise PolicyError("Statement IDs (SID) must be alpha-numeric.", statement.index, statement.sid)
        if statement.sid and statement.sid in seen:
            raise PolicyError("Statement IDs (SID) in a single policy must be unique.", statement.index, statement.sid)
        seen.add(statement.sid)


def _identity_rules(statement: Statement) -> None:
    if statement.principals is not None:
        raise PolicyError("Policy document should not specify a principal.")
    if statement.resources is None:
        raise PolicyError("Policy statement must contain resources.")
    for resource in statement.resources:
        if resource.text != "*" and not _is_arn_pattern(resource.text):
            raise PolicyError(f'Resource {resource.text[:256]} must be in ARN format or "*".')


def _trust_rules(statement: Statement) -> None:
    if statement.resources is not None:
        raise PolicyError("Has prohibited field Resource")
    principals = _check_principals(statement)
    if not all(_FEDERATED.fullmatch(each) for each in principals.federated):
        raise PolicyError("Federated principals must be valid domain names or SAML metadata ARNs")
    if statement.negated_actions or not all(
        name in _TRUST_ACTIONS or (name.startswith("sts:") and "*" in name)
        for name in (action.lower() for action in statement.actions.given)
    ):
        raise PolicyError("AssumeRole policy may only specify STS AssumeRole actions.")


def _repository_rules(statement: Statement) -> None:
    _check_principals(statement)
    if statement.resources is not None:
        raise PolicyError("A repository's policy has no Resource: it speaks of its repository alone")
    _check_ecr_actions(statement, of_repository=True)


def _registry_rules(account: str, scope: PolicyScope) -> Rules:
    def rules(statement: Statement) -> None:
        _check_principals(statement)
        if statement.resources is None:
            raise PolicyError("A registry's policy needs a Resource")
        for resource in statement.resources:
            if resource.text != "*" and not _is_within(resource.text, account):
                raise PolicyError(f"Resource {resource.text[:256]} is no repository of this registry")
        if scope is PolicyScope.V2:
            _check_ecr_actions(statement, of_repository=False)
        elif statement.negated_actions or not all(each.lower() in V1_ACTIONS for each in statement.actions.given):
            raise PolicyError(
                "In scope V1 a registry's policy speaks of ecr:ReplicateImage, ecr:BatchImportUpstreamImage and "
                "ecr:CreateRepository only"
            )

    return rules


_RULES: dict[PolicyKind, Rules] = {
    PolicyKind.IDENTITY: _identity_rules,
    PolicyKind.BOUNDARY: _identity_rules,
    PolicyKind.SESSION: _identity_rules,
    PolicyKind.REPOSITORY: _repository_rules,
    PolicyKind.TRUST: _trust_rules,
}


def _check_principals(statement: Statement) -> Principals:
    if statement.principals is None:
        raise PolicyError("Missing required field Principal")
    if statement.allows and statement.negated_principals:
        raise PolicyError("Allow with NotPrincipal is not allowed.")
    if statement.principals.canonical:
        raise PolicyError("Invalid principal in policy: a CanonicalUser is none of this service")
    return statement.principals


def _check_ecr_actions(statement: Statement, *, of_repository: bool) -> None:
    known = ecr_actions()
    for given in statement.actions.given:
        action = given.lower()
        if action == "*":
            continue
        if not action.startswith("ecr:"):
            raise PolicyError(f"Action {given[:64]} is none of ECR's")
        name = action.removeprefix("ecr:")
        if "*" in name or "?" in name:
            continue
        if name not in known:
            raise PolicyError(f"Action {given[:64]} is not known")
        if of_repository and not known[name]:
            raise PolicyError(f"Action {given} is not one on a repository")


@cache
def ecr_actions() -> dict[str, bool]:
    """Every action of ECR in lower case, without its vendor, and whether it is one on a repository."""
    found = dict.fromkeys(_PERMISSION_ONLY, True)
    for name, operation in models.service("ecr")["operations"].items():
        shape = operation.get("input", {}).get("shape")
        members = models.shape("ecr", shape)["members"] if shape is not None else {}
        found[name.lower()] = not _OF_REPOSITORY.isdisjoint(members)
    return found


def _is_arn_pattern(text: str) -> bool:
    """Six segments, or fewer of which the last is cut short by a wildcard."""
    return text.startswith("arn:") and (text.count(":") >= 5 or text.endswith("*"))


def _is_within(text: str, account: str) -> bool:
    parts = text.split(":", 5)
    if len(parts) != 6:
        return False
    arn, partition, service, region, owner, resource = parts
    ours = (arn, partition, service) == ("arn", "aws", "ecr") and bool(region) and owner == account
    return ours and resource.startswith("repository/")
