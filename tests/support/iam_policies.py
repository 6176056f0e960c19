"""One call of each operation of IAM on policies, providers and reports, after `iam_people.people` made its people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import IAM, resources

_PULL_ONLY = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
_DOCUMENT = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:Get*", "Resource": "*"}]}
)
_HOLDERS = {"User": {"UserName": "ann"}, "Group": {"GroupName": "anns"}, "Role": {"RoleName": "ann-role"}}
_TAGS = [{"Key": "a", "Value": "b"}, {"Key": "c", "Value": "d"}]


def policies(tx: Transaction, account: str) -> dict[str, Callable[[], object]]:
    """By the name under which the service knows it."""

    def call(operation: str, **parameters: Any) -> Any:
        return IAM[operation].run(tx, account, parameters)

    def calls(operation: str, *variants: dict[str, Any], **parameters: Any) -> Callable[[], object]:
        return lambda: [call(operation, **parameters, **more) for more in variants or ({},)]

    def pages(operation: str, *variants: dict[str, Any], **parameters: Any) -> Callable[[], object]:
        """The first page of each variant, and all that follow it."""

        def all_of_them() -> None:
            for variant in variants or ({},):
                more: dict[str, Any] = {}
                while True:
                    answer = call(operation, MaxItems=1, **parameters, **variant, **more)
                    if not answer["IsTruncated"]:
                        break
                    more = {"Marker": answer["Marker"]}

        return all_of_them

    own, gone = (f"arn:aws:iam::{account}:policy/{name}" for name in ("own", "gone"))
    provider = {"OpenIDConnectProviderArn": f"arn:aws:iam::{account}:oidc-provider/issuer.example.com"}
    for name in ("own", "gone"):
        call("CreatePolicy", PolicyName=name, PolicyDocument=_DOCUMENT, Tags=_TAGS)
    call("CreatePolicyVersion", PolicyArn=own, PolicyDocument=_DOCUMENT)
    call("CreateOpenIDConnectProvider", Url="https://issuer.example.com", Tags=_TAGS)
    for noun, named in _HOLDERS.items():
        for arn in (own, _PULL_ONLY):
            call(f"Attach{noun}Policy", PolicyArn=arn, **named)
        for name in ("a", "b"):
            call(f"Put{noun}Policy", PolicyName=name, PolicyDocument=_DOCUMENT, **named)
    call("PutUserPermissionsBoundary", UserName="two", PermissionsBoundary=own)

    kinds = [{"EntityFilter": kind} for kind in ("User", "Group", "Role")]
    uses = [{"PolicyUsageFilter": use} for use in ("PermissionsPolicy", "PermissionsBoundary")]
    iam = {
        "CreatePolicy": calls("CreatePolicy", PolicyName="new", PolicyDocument=_DOCUMENT),
        "GetPolicy": calls("GetPolicy", {"PolicyArn": own}, {"PolicyArn": _PULL_ONLY}),
        "DeletePolicy": calls("DeletePolicy", PolicyArn=gone),
        "ListPolicies": pages("ListPolicies", {}, {"OnlyAttached": True}, {"PathPrefix": "/a/"}, *uses),
        "TagPolicy": calls("TagPolicy", PolicyArn=own, Tags=_TAGS),
        "UntagPolicy": calls("UntagPolicy", PolicyArn=own, TagKeys=["none"]),
        "ListPolicyTags": pages("ListPolicyTags", PolicyArn=own),
        "CreatePolicyVersion": calls("CreatePolicyVersion", PolicyArn=own, PolicyDocument=_DOCUMENT),
        "GetPolicyVersion": calls("GetPolicyVersion", PolicyArn=own, VersionId="v2"),
        "ListPolicyVersions": pages("ListPolicyVersions", PolicyArn=own),
        "SetDefaultPolicyVersion": calls("SetDefaultPolicyVersion", PolicyArn=own, VersionId="v2"),
        "DeletePolicyVersion": calls("DeletePolicyVersion", PolicyArn=own, VersionId="v1"),
        "ListEntitiesForPolicy": pages(
            "ListEntitiesForPolicy", {}, {"PathPrefix": "/a/"}, *kinds, *uses, PolicyArn=own
        ),
        "CreateOpenIDConnectProvider": calls("CreateOpenIDConnectProvider", Url="https://other.example.com"),
        "GetOpenIDConnectProvider": calls("GetOpenIDConnectProvider", **provider),
        "ListOpenIDConnectProviders": calls("ListOpenIDConnectProviders"),
        "AddClientIDToOpenIDConnectProvider": calls("AddClientIDToOpenIDConnectProvider", ClientID="c", **provider),
        "RemoveClientIDFromOpenIDConnectProvider": calls(
            "RemoveClientIDFromOpenIDConnectProvider", ClientID="c", **provider
        ),
        "UpdateOpenIDConnectProviderThumbprint": calls(
            "UpdateOpenIDConnectProviderThumbprint", ThumbprintList=["a" * 40], **provider
        ),
        "TagOpenIDConnectProvider": calls("TagOpenIDConnectProvider", Tags=_TAGS, **provider),
        "UntagOpenIDConnectProvider": calls("UntagOpenIDConnectProvider", TagKeys=["none"], **provider),
        "ListOpenIDConnectProviderTags": pages("ListOpenIDConnectProviderTags", **provider),
        "DeleteOpenIDConnectProvider": calls("DeleteOpenIDConnectProvider", **provider),
        "GetAccountSummary": calls("GetAccountSummary"),
        "GetAccountAuthorizationDetails": pages("GetAccountAuthorizationDetails"),
        "GetContextKeysForCustomPolicy": calls("GetContextKeysForCustomPolicy", PolicyInputList=[_DOCUMENT]),
        "GetContextKeysForPrincipalPolicy": calls(
            "GetContextKeysForPrincipalPolicy", PolicySourceArn=f"arn:aws:iam::{account}:group/anns"
        ),
        "SimulateCustomPolicy": calls(
            "SimulateCustomPolicy",
            PolicyInputList=[_DOCUMENT],
            ActionNames=["ecr:GetX"],
            CallerArn=f"arn:aws:iam::{account}:user/two",
        ),
        "SimulatePrincipalPolicy": calls(
            "SimulatePrincipalPolicy", PolicySourceArn=f"arn:aws:iam::{account}:user/ann", ActionNames=["ecr:GetX"]
        ),
    }
    for noun, named in _HOLDERS.items():
        iam[f"Put{noun}Policy"] = calls(
            f"Put{noun}Policy", {"PolicyName": "b"}, {"PolicyName": "c"}, PolicyDocument=_DOCUMENT, **named
        )
        iam[f"Get{noun}Policy"] = calls(f"Get{noun}Policy", PolicyName="a", **named)
        iam[f"List{noun}Policies"] = pages(f"List{noun}Policies", **named)
        iam[f"Attach{noun}Policy"] = calls(f"Attach{noun}Policy", PolicyArn=_PULL_ONLY, **named)
        iam[f"ListAttached{noun}Policies"] = pages(f"ListAttached{noun}Policies", **named)
        iam[f"Detach{noun}Policy"] = calls(f"Detach{noun}Policy", PolicyArn=_PULL_ONLY, **named)
        iam[f"Delete{noun}Policy"] = calls(f"Delete{noun}Policy", PolicyName="a", **named)
    found: dict[str, Callable[[], object]] = {f"iam.{name}": run for name, run in iam.items()}
    found["iam_resource"] = lambda: [
        resources.iam_resource(tx, account, kind, name)
        for kind, name in (
            ("user", "ann"),
            ("group", "anns"),
            ("role", "ann-role"),
            ("policy", own),
            ("oidc-provider", provider["OpenIDConnectProviderArn"]),
            ("access-key", "AKIA0000000000000001"),
            ("source", f"arn:aws:iam::{account}:user/ann"),
            ("source", f"arn:aws:iam::{account}:group/anns"),
        )
    ]
    return found
