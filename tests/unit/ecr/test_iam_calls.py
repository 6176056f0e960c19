"""IAM's door: what is asked of the evaluator for each call, who may not ask at all, and where a secret goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.auth.access import Access
from proxy.auth.envelope import SmallSealer
from proxy.auth.policy.context import RequestInfo
from proxy.auth.policy.decision import Decision
from proxy.auth.secrets import PURPOSE, open_secret
from proxy.awsmodel import models
from proxy.ecr.iam import Iam
from proxy.ecr.iam.actions import ACTIONS, EntityKind
from proxy.metadata.operations.iam import IAM
from proxy.model.errors import Code, Failure
from proxy.model.identity import (
    Caller,
    IamResource,
    Principal,
    PrincipalKind,
    RegistryAccess,
    RepositoryAccess,
    Session,
    SessionKind,
)

ACCOUNT = "123456789012"
IN = f"arn:aws:iam::{ACCOUNT}:"
BOUNDARY = f"{IN}policy/edge"
FACTS = RequestInfo(now=1_800_000_000.0, source_ip="192.0.2.1", secure=True, user_agent="aws-cli", region="us-east-1")
ANN = Principal("AIDAANN", ACCOUNT, f"{IN}user/eng/ann", "ann")
ROOT = Principal(ACCOUNT, ACCOUNT, f"{IN}root", "root", PrincipalKind.ROOT)
CI = Principal("AROACI", ACCOUNT, f"{IN}role/ci", "ci", PrincipalKind.ROLE)

THERE = {
    ("user", "ann"): IamResource(f"{IN}user/eng/ann", (("Team", "a"),), BOUNDARY),
    ("role", "ci"): IamResource(f"{IN}role/build/ci", (("Env", "x"),), BOUNDARY),
    ("group", "devs"): IamResource(f"{IN}group/devs"),
    ("policy", f"{IN}policy/p"): IamResource(f"{IN}policy/p", (("Team", "a"),)),
    ("oidc-provider", f"{IN}oidc-provider/issuer/x"): IamResource(f"{IN}oidc-provider/issuer/x", (("Team", "a"),)),
    ("access-key", "AKIAANN"): IamResource(f"{IN}user/eng/ann"),
    ("source", f"{IN}role/build/ci"): IamResource(f"{IN}role/build/ci"),
}


@dataclass
class Rows:
    """What is there, and what was asked to be done."""

    done: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    sealed: bytes = b""

    async def iam(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self.done.append((account, operation, parameters))
        return {"done": operation}

    async def iam_resource(self, account: str, kind: str, name: str) -> IamResource | None:
        assert account == ACCOUNT
        return THERE.get((kind, name))

    async def create_access_key(
        self, account: str, user_name: str | None, access_key_id: str, sealed_secret: bytes
    ) -> dict[str, Any]:
        self.done.append((account, "CreateAccessKey", {"UserName": user_name}))
        self.sealed = sealed_secret
        made = {"UserName": user_name, "AccessKeyId": access_key_id, "Status": "Active", "CreateDate": FACTS.now}
        return {"AccessKey": made}


class NoLookups:
    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        raise AssertionError("IAM asks no repository")

    async def registry_access(self, account: str) -> RegistryAccess:
        raise AssertionError("IAM asks no registry")


class Recorded(Access):
    """Allows everything but what is in `refused`, and keeps what it was asked."""

    def __init__(self, *refused: str) -> None:
        super().__init__(NoLookups())
        self.refused = refused
        self.asked: list[tuple[str, str, Mapping[str, Sequence[str]]]] = []

    async def decide(
        self,
        caller: Caller,
        action: str,
        resource: str,
        info: RequestInfo,
        extra: Mapping[str, Sequence[str]] | None = None,
        *,
        below: bool = False,
    ) -> Decision:
        self.asked.append((action, resource, extra or {}))
        return Decision(action not in self.refused, "" if action not in self.refused else f"not {action}")


SEALER = SmallSealer([("one", b"k" * 32)], PURPOSE)

TEAM = {"aws:resourcetag/team": ("a",), "iam:resourcetag/team": ("a",)}
ENV = {"aws:resourcetag/env": ("x",), "iam:resourcetag/env": ("x",)}
EDGE = {"iam:permissionsboundary": (BOUNDARY,)}
NEW_TAGS = {"aws:requesttag/cost": ("9",), "aws:tagkeys": ("Cost",)}
TAGS = [{"Key": "Cost", "Value": "9"}]

ASKED: list[tuple[str, dict[str, Any], list[tuple[str, str, Mapping[str, Sequence[str]]]]]] = [
    ("CreateUser", {"UserName": "bob"}, [("CreateUser", "user/bob", {})]),
    ("CreateUser", {"UserName": "bob", "Path": "/eng/"}, [("CreateUser", "user/eng/bob", {})]),
    (
        "CreateUser",
        {"UserName": "bob", "Tags": TAGS, "PermissionsBoundary": BOUNDARY},
        [("CreateUser", "user/bob", {**NEW_TAGS, **EDGE}), ("TagUser", "user/bob", {**NEW_TAGS, **EDGE})],
    ),
    ("GetUser", {"UserName": "ann"}, [("GetUser", "user/eng/ann", TEAM)]),
    ("GetUser", {}, [("GetUser", "user/eng/ann", TEAM)]),
    ("GetUser", {"UserName": "nobody"}, [("GetUser", "user/nobody", {})]),
    ("UpdateUser", {"UserName": "ann"}, [("UpdateUser", "user/eng/ann", TEAM)]),
    (
        "UpdateUser",
        {"UserName": "ann", "NewUserName": "anna", "NewPath": "/ops/"},
        [("UpdateUser", "user/eng/ann", TEAM), ("UpdateUser", "user/ops/anna", TEAM)],
    ),
    (
        "UpdateUser",
        {"UserName": "ann", "NewUserName": "anna"},
        [("UpdateUser", "user/eng/ann", TEAM), ("UpdateUser", "user/eng/anna", TEAM)],
    ),
    (
        "UpdateGroup",
        {"GroupName": "devs", "NewGroupName": "ops"},
        [("UpdateGroup", "group/devs", {}), ("UpdateGroup", "group/ops", {})],
    ),
    ("ListUsers", {}, [("ListUsers", "user/", {})]),
    ("ListRoles", {"PathPrefix": "/build/"}, [("ListRoles", "role/build/", {})]),
    ("ListPolicies", {}, [("ListPolicies", "*", {})]),
    ("TagUser", {"UserName": "ann", "Tags": TAGS}, [("TagUser", "user/eng/ann", {**TEAM, **NEW_TAGS})]),
    (
        "UntagUser",
        {"UserName": "ann", "TagKeys": ["Team"]},
        [("UntagUser", "user/eng/ann", {**TEAM, "aws:tagkeys": ("Team",)})],
    ),
    (
        "AttachUserPolicy",
        {"UserName": "ann", "PolicyArn": f"{IN}policy/p"},
        [("AttachUserPolicy", "user/eng/ann", {**TEAM, **EDGE, "iam:policyarn": (f"{IN}policy/p",)})],
    ),
    (
        "PutUserPermissionsBoundary",
        {"UserName": "ann", "PermissionsBoundary": f"{IN}policy/wide"},
        [("PutUserPermissionsBoundary", "user/eng/ann", {**TEAM, "iam:permissionsboundary": (f"{IN}policy/wide",)})],
    ),
    ("GetRole", {"RoleName": "ci"}, [("GetRole", "role/build/ci", {**ENV, **EDGE})]),
    ("PutGroupPolicy", {"GroupName": "devs"}, [("PutGroupPolicy", "group/devs", {})]),
    ("AddUserToGroup", {"GroupName": "devs", "UserName": "ann"}, [("AddUserToGroup", "group/devs", {})]),
    ("GetPolicy", {"PolicyArn": f"{IN}policy/p"}, [("GetPolicy", "policy/p", {"aws:resourcetag/team": ("a",)})]),
    ("DeletePolicy", {"PolicyArn": f"{IN}policy/no"}, [("DeletePolicy", "policy/no", {})]),
    ("CreatePolicy", {"PolicyName": "q", "Path": "/a/"}, [("CreatePolicy", "policy/a/q", {})]),
    (
        "CreateOpenIDConnectProvider",
        {"Url": "https://issuer/x"},
        [("CreateOpenIDConnectProvider", "oidc-provider/issuer/x", {})],
    ),
    (
        "GetOpenIDConnectProvider",
        {"OpenIDConnectProviderArn": f"{IN}oidc-provider/issuer/x"},
        [("GetOpenIDConnectProvider", "oidc-provider/issuer/x", {"aws:resourcetag/team": ("a",)})],
    ),
    ("ListAccessKeys", {}, [("ListAccessKeys", "user/eng/ann", TEAM)]),
    ("GetAccessKeyLastUsed", {"AccessKeyId": "AKIAANN"}, [("GetAccessKeyLastUsed", "user/eng/ann", {})]),
    ("GetAccessKeyLastUsed", {"AccessKeyId": "AKIANONE"}, [("GetAccessKeyLastUsed", "user/*", {})]),
    (
        "SimulatePrincipalPolicy",
        {"PolicySourceArn": f"{IN}role/build/ci"},
        [("SimulatePrincipalPolicy", "role/build/ci", {})],
    ),
    ("GetAccountSummary", {}, [("GetAccountSummary", "*", {})]),
]


@pytest.mark.parametrize(("action", "parameters", "expected"), ASKED, ids=lambda value: str(value)[:40])
async def test_each_call_is_asked_on_the_arn_of_what_it_touches_with_its_condition_keys(
    action: str, parameters: dict[str, Any], expected: list[tuple[str, str, Mapping[str, Sequence[str]]]]
) -> None:
    access, rows = Recorded(), Rows()
    await Iam(rows, access, SEALER).answer(action, Caller(ANN), parameters, FACTS)
    wanted = [
        (f"iam:{name}", resource if resource == "*" else f"{IN}{resource}", keys) for name, resource, keys in expected
    ]
    assert access.asked == wanted
    assert [(account, operation) for account, operation, _ in rows.done] == [(ACCOUNT, action)]


@pytest.mark.parametrize("refused", ["iam:CreateUser", "iam:TagUser"])
async def test_nothing_is_done_unless_all_that_a_call_needs_is_allowed(refused: str) -> None:
    rows = Rows()
    with pytest.raises(Failure) as caught:
        await Iam(rows, Recorded(refused), SEALER).answer(
            "CreateUser", Caller(ANN), {"UserName": "bob", "Tags": TAGS}, FACTS
        )
    assert (caught.value.code, caught.value.message, rows.done) == (Code.ACCESS_DENIED, f"not {refused}", [])


async def test_a_new_key_is_told_once_and_reaches_the_rows_only_sealed() -> None:
    rows = Rows()
    made = (await Iam(rows, Recorded(), SEALER).answer("CreateAccessKey", Caller(ANN), {}, FACTS))["AccessKey"]
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", made["AccessKeyId"])
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", made["SecretAccessKey"])
    assert made["UserName"] == "ann"
    assert made["SecretAccessKey"].encode() not in rows.sealed
    assert open_secret(SEALER, made["AccessKeyId"], rows.sealed) == made["SecretAccessKey"]


async def test_a_caller_without_a_name_must_name_a_user() -> None:
    session = Session(SessionKind.ROLE, "run", 0.0, 1.0)
    with pytest.raises(Failure) as caught:
        await Iam(Rows(), Recorded(), SEALER).answer("GetUser", Caller(CI, session), {}, FACTS)
    assert (caught.value.code, caught.value.message) == (
        Code.VALIDATION_ERROR,
        "Must specify userName when calling with non-User credentials",
    )


@pytest.mark.parametrize("action", ["GetUser", "ListAccessKeys", "CreateAccessKey"])
async def test_the_root_of_an_account_may_speak_of_itself_without_a_name(action: str) -> None:
    access, rows = Recorded(), Rows()
    await Iam(rows, access, SEALER).answer(action, Caller(ROOT), {}, FACTS)
    assert access.asked == [(f"iam:{action}", f"{IN}root", {})]
    assert rows.done == [(ACCOUNT, action, {"UserName": None} if action == "CreateAccessKey" else {})]


async def test_credentials_of_get_session_token_may_not_call_iam_without_a_second_factor() -> None:
    plain = Session(SessionKind.USER, "", 0.0, 1.0)
    rows = Rows()
    with pytest.raises(Failure) as caught:
        await Iam(rows, Recorded(), SEALER).answer("GetUser", Caller(ANN, plain), {}, FACTS)
    assert (caught.value.code, rows.done) == (Code.ACCESS_DENIED, [])
    with_factor = Session(SessionKind.USER, "", 0.0, 1.0, mfa=True)
    await Iam(rows, Recorded(), SEALER).answer("GetUser", Caller(ANN, with_factor), {}, FACTS)
    assert len(rows.done) == 1


async def test_what_the_model_has_and_nobody_serves_is_refused_by_name() -> None:
    with pytest.raises(Failure) as caught:
        await Iam(Rows(), Recorded(), SEALER).answer("CreateSAMLProvider", Caller(ANN), {}, FACTS)
    assert caught.value.code is Code.UNKNOWN_OPERATION
    assert "CreateSAMLProvider" in caught.value.message


def test_every_action_is_of_the_model_and_names_its_entity_by_a_member_of_its_input() -> None:
    described = models.service("iam")
    for name, action in ACTIONS.items():
        shape = described["operations"][name].get("input", {}).get("shape")
        members = models.shape("iam", shape)["members"] if shape else {}
        assert action.parameter in members or not action.parameter, name
        if "Tags" in members and action.makes:
            assert action.tagging in ACTIONS, name
        if action.kind in (EntityKind.USER, EntityKind.GROUP, EntityKind.ROLE) and not action.parameter:
            assert "PathPrefix" in members, name


def test_the_door_serves_what_rows_serve() -> None:
    """A key's secret is made at the door, so the rows know no CreateAccessKey by that name."""
    assert ACTIONS.keys() == IAM.keys() | {"CreateAccessKey"}
