"""Answers of IAM against botocore's output shapes, and what AWS always sends though the model calls it optional.

`check` is for what rows and doors answer; clients drop what they do not know, so it looks before they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.shapes import models

_PERSON = ("Path", "Arn", "CreateDate")
_POLICY = (
    "PolicyName",
    "PolicyId",
    "Arn",
    "Path",
    "DefaultVersionId",
    "AttachmentCount",
    "PermissionsBoundaryUsageCount",
    "IsAttachable",
    "CreateDate",
    "UpdateDate",
)

ALWAYS: Mapping[str, tuple[str, ...]] = {
    "User": (*_PERSON, "UserName", "UserId"),
    "Group": (*_PERSON, "GroupName", "GroupId"),
    "Role": (*_PERSON, "RoleName", "RoleId", "AssumeRolePolicyDocument"),
    "Policy": _POLICY,
    "PolicyVersion": ("VersionId", "IsDefaultVersion", "CreateDate"),
    "AttachedPolicy": ("PolicyName", "PolicyArn"),
    "AttachedPermissionsBoundary": ("PermissionsBoundaryType", "PermissionsBoundaryArn"),
    "AccessKey": ("UserName", "AccessKeyId", "Status", "SecretAccessKey", "CreateDate"),
    "AccessKeyMetadata": ("UserName", "AccessKeyId", "Status", "CreateDate"),
    "AccessKeyLastUsed": ("ServiceName", "Region"),
    "PolicyGroup": ("GroupName", "GroupId"),
    "PolicyUser": ("UserName", "UserId"),
    "PolicyRole": ("RoleName", "RoleId"),
    "PolicyDetail": ("PolicyName", "PolicyDocument"),
    "UserDetail": (*_PERSON, "UserName", "UserId", "GroupList", "AttachedManagedPolicies"),
    "GroupDetail": (*_PERSON, "GroupName", "GroupId", "GroupPolicyList", "AttachedManagedPolicies"),
    "RoleDetail": (
        *_PERSON,
        "RoleName",
        "RoleId",
        "AssumeRolePolicyDocument",
        "InstanceProfileList",
        "RolePolicyList",
        "AttachedManagedPolicies",
        "RoleLastUsed",
    ),
    "ManagedPolicyDetail": (*_POLICY, "PolicyVersionList"),
    "OpenIDConnectProviderListEntry": ("Arn",),
    "CreateOpenIDConnectProviderResponse": ("OpenIDConnectProviderArn",),
    "GetOpenIDConnectProviderResponse": ("Url", "ClientIDList", "ThumbprintList", "CreateDate", "Tags"),
    "GetAccountSummaryResponse": ("SummaryMap",),
    "GetContextKeysForPolicyResponse": ("ContextKeyNames",),
    "SimulatePolicyResponse": ("EvaluationResults", "IsTruncated"),
    "EvaluationResult": ("EvalResourceName", "MatchedStatements", "MissingContextValues"),
    "ResourceSpecificResult": ("MatchedStatements", "MissingContextValues"),
    "Statement": ("SourcePolicyId", "SourcePolicyType", "StartPosition", "EndPosition"),
}
"""By shape: members that AWS sends every time."""

_SENT_BESIDES: Mapping[str, tuple[str, ...]] = {
    "GetPolicyVersion": ("PolicyVersion.Document",),
    "GetRole": ("Role.MaxSessionDuration", "Role.RoleLastUsed"),
    "GetPolicy": ("Policy.Tags",),
}
"""By operation: members of one answer only."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "timestamp": (int, float),
    "list": (list, tuple),
    "map": (dict,),
    "structure": (dict,),
}


_SENT_OTHERWISE: Mapping[str, tuple[str, ...]] = {"PermissionsBoundaryAttachmentType": ("Policy",)}
"""Where AWS's documents and answers have another word than the model."""


def check(operation: str, answer: Mapping[str, Any]) -> None:
    """AssertionError where `answer` is not what a client of `operation` may rely on."""
    output = models.service("iam")["operations"][operation].get("output")
    if output is None:
        assert answer == {}, f"{operation} has no output"
        return
    if "IsTruncated" in models.shape("iam", output["shape"])["members"]:
        assert "IsTruncated" in answer, f"{operation} says whether there is more"
        assert ("Marker" in answer) == answer["IsTruncated"], f"{operation} has a Marker where there is more"
    _check(output["shape"], answer, operation)
    for path in _SENT_BESIDES.get(operation, ()):
        value: Any = answer
        for part in path.split("."):
            assert part in value, f"{operation} sends {path}"
            value = value[part]


def _check(name: str, value: Any, path: str) -> None:
    shape = models.shape("iam", name)
    kind = shape["type"]
    fits = isinstance(value, _TYPES[kind])
    assert fits, f"{path} is a {kind}"
    if kind == "structure":
        unknown = value.keys() - shape["members"].keys()
        assert not unknown, f"{path} has no {unknown}"
        missing = {*shape.get("required", ()), *ALWAYS.get(name, ())} - value.keys()
        assert not missing, f"{path} has {missing}"
        for member, inner in value.items():
            _check(shape["members"][member]["shape"], inner, f"{path}.{member}")
    elif kind == "list":
        for inner in value:
            _check(shape["member"]["shape"], inner, f"{path}[]")
    elif kind == "map":
        for key, inner in value.items():
            _check(shape["key"]["shape"], key, f"{path} key")
            _check(shape["value"]["shape"], inner, f"{path}.{key}")
    elif kind == "string":
        assert shape.get("min", 0) <= len(value) <= shape.get("max", len(value)), f"{path} {value!r} fits its bounds"
        allowed = _SENT_OTHERWISE.get(name, shape.get("enum", (value,)))
        assert value in allowed, f"{path} {value!r} is of {shape.get('enum')}"


class Asked:
    """IAM of one account as its rows answer it, every answer checked."""

    def __init__(self, metadata: Metadata, account: str) -> None:
        self.metadata = metadata
        self.account = account

    async def __call__(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer = await self.metadata.iam(self.account, operation, parameters)
        check(operation, answer)
        return answer

    async def refused(self, operation: str, **parameters: Any) -> tuple[str, str]:
        """Code and text of the Failure."""
        try:
            answer = await self.metadata.iam(self.account, operation, parameters)
        except Failure as failure:
            return failure.code.value, failure.message
        raise AssertionError(f"{operation} answered {answer}")

    async def paged(
        self, operation: str, of: Callable[[Mapping[str, Any]], list[Any]], **parameters: Any
    ) -> list[list[Any]]:
        """The pages of a list, each as `of` picks it."""
        pages: list[list[Any]] = []
        more: dict[str, Any] = {}
        while True:
            answer = await self(operation, **parameters, **more)
            pages.append(of(answer))
            if not answer["IsTruncated"]:
                return pages
            more = {"Marker": answer["Marker"]}
