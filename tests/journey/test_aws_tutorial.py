"""A tutorial of accounts, people, roles and policies, typed into the real aws command, section by section.

Each section is the administrator of an account of its own. `aws("...")` is what is typed; what comes back is asserted:
the answer, or what the command says of an error. The last test holds the sections to all that IAM and STS serve.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from botocore import xform_name

from proxy.metadata.operations.iam import IAM
from support.aws_command import REGION, Aws, key_of, said
from support.policies import LOGIN, POWER_USER, PULL, PULL_ONLY, allow, policy

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws"), pytest.mark.timeout(600)]


def test_who_am_i(aws: Aws, account: str) -> None:
    me = aws("aws sts get-caller-identity")
    assert me["Arn"] == f"arn:aws:iam::{account}:user/administrator"
    assert me["UserId"].startswith("AIDA")
    assert aws.text("aws sts get-caller-identity --query Account --output text") == account
    assert aws.text(f"aws sts get-access-key-info --access-key-id {aws.key[0]} --output text") == account

    # Credentials for a quarter of an hour: the same user, who may not manage people with them.
    mine = aws.as_(*key_of(aws("aws sts get-session-token --duration-seconds 900")))
    assert mine.key[0].startswith("ASIA")
    assert mine("aws sts get-caller-identity") == me
    assert mine("aws ecr describe-repositories") == {"repositories": []}
    assert said(mine.error("aws iam list-users"))[0] in ("AccessDenied", "InvalidClientTokenId")
    again = said(mine.error("aws sts get-session-token"))
    assert again == ("AccessDenied", "Cannot call GetSessionToken with session credentials")

    # What goes wrong, and what it is called.
    assert said(aws.as_(aws.key[0], "wrong").error("aws sts get-caller-identity"))[0] == "SignatureDoesNotMatch"
    invalid = ("InvalidClientTokenId", "The security token included in the request is invalid.")
    assert said(aws.as_("AKIANOBODY0000000000", "none").error("aws iam list-users")) == invalid
    assert said(mine.as_(*mine.key[:2]).error("aws sts get-caller-identity")) == invalid
    assert said(aws.error("aws sts get-federation-token --name anybody"))[0] == "InvalidAction"


def test_a_user_with_a_key(aws: Aws, account: str) -> None:
    ann = f"arn:aws:iam::{account}:user/dev/ann"
    made = aws("aws iam create-user --user-name ann --path /dev/ --tags Key=team,Value=blue")["User"]
    assert made["Arn"] == ann
    exists = ("EntityAlreadyExists", "User with name Ann already exists.")
    assert said(aws.error("aws iam create-user --user-name Ann")) == exists
    letters = "It must contain only alphanumeric characters and/or the following: +=,.@_-"
    wrong = ("ValidationError", f"The specified value for userName is invalid. {letters}")
    assert said(aws.error("aws iam create-user --user-name 'a b'")) == wrong
    her = aws.as_(*key_of(aws("aws iam create-access-key --user-name ann")))
    assert her.text("aws sts get-caller-identity --query Arn --output text") == ann

    # Deny by default: she may ask who she is, and nothing else yet.
    denied = f"User: {ann} is not authorized to perform: iam:GetUser on resource: {ann} because no identity-based "
    assert said(her.error("aws iam get-user")) == ("AccessDenied", f"{denied}policy allows the iam:GetUser action")
    own = {"Effect": "Allow", "Action": ["iam:GetUser", "iam:*AccessKey*"], "Resource": ann}
    aws.write("own.json", policy(own, allow(LOGIN, Resource="*")))
    aws("aws iam put-user-policy --user-name ann --policy-name own --policy-document file://own.json")
    assert her("aws iam get-user")["User"]["Tags"] == [{"Key": "team", "Value": "blue"}]
    kept = aws("aws iam get-user-policy --user-name ann --policy-name own")["PolicyDocument"]
    assert kept["Statement"][0] == own
    assert aws("aws iam list-user-policies --user-name ann")["PolicyNames"] == ["own"]

    # She turns her key: a new one, the old one off and away.
    new = her.as_(*key_of(her("aws iam create-access-key")))
    quota = said(her.error("aws iam create-access-key"))
    assert quota == ("LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2")
    new(f"aws iam update-access-key --access-key-id {her.key[0]} --status Inactive")
    assert said(her.error("aws iam get-user"))[0] == "InvalidClientTokenId"
    new(f"aws iam delete-access-key --access-key-id {her.key[0]}")
    listed = new.text("aws iam list-access-keys --query AccessKeyMetadata[].[AccessKeyId,Status] --output text")
    assert listed == f"{new.key[0]}\tActive"
    used = aws(f"aws iam get-access-key-last-used --access-key-id {new.key[0]}")
    assert (used["UserName"], used["AccessKeyLastUsed"]["Region"]) == ("ann", REGION)

    # Tags and names; then the users in pages of one.
    aws("aws iam tag-user --user-name ann --tags Key=cost,Value=9")
    aws("aws iam untag-user --user-name ann --tag-keys team")
    assert aws.text("aws iam list-user-tags --user-name ann --query Tags[].Key --output text") == "cost"
    aws("aws iam update-user --user-name ann --new-user-name anna --new-path /ops/")
    assert new("aws sts get-caller-identity")["Arn"] == f"arn:aws:iam::{account}:user/ops/anna"
    first = aws("aws iam list-users --max-items 1")
    assert [user["UserName"] for user in first["Users"]] == ["administrator"]
    rest = aws(f"aws iam list-users --max-items 1 --starting-token {first['NextToken']}")
    assert [user["UserName"] for user in rest["Users"]] == ["anna"]
    assert "NextToken" not in rest
    assert aws("aws iam list-users --page-size 1 --path-prefix /ops/ --query Users[].UserName") == ["anna"]
    table = aws.text("aws iam list-users --path-prefix /ops/ --output table")
    assert (" ListUsers " in table, "|  /ops/" in table) == (True, True)

    # A user goes when nothing hangs on it any more.
    policies = ("DeleteConflict", "Cannot delete entity, must delete policies first.")
    assert said(aws.error("aws iam delete-user --user-name anna")) == policies
    aws("aws iam delete-user-policy --user-name anna --policy-name own")
    assert said(aws.error("aws iam delete-user --user-name anna"))[1].endswith("must delete access keys first.")
    aws(f"aws iam delete-access-key --user-name anna --access-key-id {new.key[0]}")
    aws("aws iam delete-user --user-name anna")
    gone = ("NoSuchEntity", "The user with name anna cannot be found.")
    assert said(aws.error("aws iam get-user --user-name anna")) == gone


def test_a_group(aws: Aws, account: str) -> None:
    group = aws("aws iam create-group --group-name devs --path /eng/")["Group"]
    assert group["Arn"] == f"arn:aws:iam::{account}:group/eng/devs"
    aws("aws iam create-user --user-name ann")
    aws("aws iam add-user-to-group --group-name devs --user-name ann")
    aws(f"aws iam attach-group-policy --group-name devs --policy-arn {PULL_ONLY}")
    aws.write("create.json", policy(allow("ecr:CreateRepository", Resource="arn:aws:ecr:*:*:repository/dev/*")))
    aws("aws iam put-group-policy --group-name devs --policy-name create --policy-document file://create.json")
    assert aws("aws iam list-group-policies --group-name devs")["PolicyNames"] == ["create"]
    found = aws("aws iam get-group-policy --group-name devs --policy-name create")
    assert found["PolicyDocument"]["Statement"][0]["Action"] == "ecr:CreateRepository"
    attached = aws("aws iam list-attached-group-policies --group-name devs")["AttachedPolicies"]
    assert attached == [{"PolicyName": "AmazonEC2ContainerRegistryPullOnly", "PolicyArn": PULL_ONLY}]
    assert aws("aws iam get-group --group-name devs --query Users[].UserName") == ["ann"]
    assert aws("aws iam list-groups-for-user --user-name ann --query Groups[].GroupName") == ["devs"]
    assert aws("aws iam list-groups --query Groups[].Path") == ["/eng/"]

    ann = aws.as_(*key_of(aws("aws iam create-access-key --user-name ann")))
    assert ann("aws ecr create-repository --repository-name dev/app")["repository"]["registryId"] == account
    other = said(ann.error("aws ecr create-repository --repository-name live/app"))[1]
    assert other.endswith("because no identity-based policy allows the ecr:CreateRepository action")

    aws("aws iam update-group --group-name devs --new-group-name developers")
    in_it = ("DeleteConflict", "Cannot delete entity, must remove users from group first.")
    assert said(aws.error("aws iam delete-group --group-name developers")) == in_it
    aws("aws iam remove-user-from-group --group-name developers --user-name ann")
    assert said(ann.error("aws ecr create-repository --repository-name dev/more"))[0] == "AccessDeniedException"
    aws(f"aws iam detach-group-policy --group-name developers --policy-arn {PULL_ONLY}")
    aws("aws iam delete-group-policy --group-name developers --policy-name create")
    aws("aws iam delete-group --group-name developers")
    assert said(aws.error("aws iam get-group --group-name developers"))[0] == "NoSuchEntity"


def test_managed_policies_and_what_they_would_do(aws: Aws, account: str) -> None:
    managed = aws("aws iam list-policies --scope AWS --query Policies[].Arn")
    assert {PULL_ONLY, POWER_USER, "arn:aws:iam::aws:policy/AdministratorAccess"} <= set(managed)
    app = f"arn:aws:ecr:{REGION}:{account}:repository/team/app"
    own = "arn:aws:ecr:${aws:RequestedRegion}:${aws:PrincipalAccount}:repository/${aws:PrincipalTag/team}/*"
    aws.write("push.json", policy(allow("ecr:PutImage", Resource=own)))
    arn = aws("aws iam create-policy --policy-name push --policy-document file://push.json --tags Key=a,Value=b")
    arn = arn["Policy"]["Arn"]
    assert arn == f"arn:aws:iam::{account}:policy/push"
    assert said(aws.error("aws iam create-policy --policy-name bad --policy-document '{}'"))[0] == (
        "MalformedPolicyDocument"
    )
    assert aws("aws iam list-policies --scope Local --query Policies[].PolicyName") == ["push"]

    aws.write("pull.json", policy(allow(PULL, Resource="*")))
    here = {"StringEquals": {"aws:RequestedRegion": REGION}}
    aws.write("lists.json", [json.dumps(policy(allow(PULL, Resource="*", Condition=here)))])
    aws(f"aws iam create-policy-version --policy-arn {arn} --policy-document file://pull.json --set-as-default")
    assert aws(f"aws iam get-policy --policy-arn {arn}")["Policy"]["DefaultVersionId"] == "v2"
    aws(f"aws iam set-default-policy-version --policy-arn {arn} --version-id v1")
    versions = aws(f"aws iam list-policy-versions --policy-arn {arn} --query Versions[].[VersionId,IsDefaultVersion]")
    assert sorted(versions) == [["v1", True], ["v2", False]]
    shown = aws(f"aws iam get-policy-version --policy-arn {arn} --version-id v2")["PolicyVersion"]["Document"]
    assert shown["Statement"][0]["Action"] == PULL

    # What would it allow? For the user it is attached to, and for a document that nobody has.
    aws("aws iam create-user --user-name ann --tags Key=team,Value=team")
    aws(f"aws iam attach-user-policy --user-name ann --policy-arn {arn}")
    unknown = said(aws.error("aws iam attach-user-policy --user-name ann --policy-arn arn:aws:iam::aws:policy/Nope"))
    assert unknown[0] == "NoSuchEntity"
    ann = f"--policy-source-arn arn:aws:iam::{account}:user/ann"
    keys = aws(f"aws iam get-context-keys-for-principal-policy {ann}")["ContextKeyNames"]
    assert {key.lower() for key in keys} >= {"aws:principaltag/team", "aws:principalaccount"}
    keys = aws("aws iam get-context-keys-for-custom-policy --policy-input-list file://lists.json")["ContextKeyNames"]
    assert "aws:requestedregion" in {key.lower() for key in keys}
    asked = f"--resource-arns {app} --query EvaluationResults[].[EvalActionName,EvalDecision] --output text"
    region = f"ContextKeyName=aws:RequestedRegion,ContextKeyType=string,ContextKeyValues={REGION}"
    said_of_ann = aws.text(
        f"aws iam simulate-principal-policy {ann} --action-names ecr:PutImage ecr:BatchGetImage {asked} "
        f"--context-entries {region}"
    )
    assert said_of_ann == "ecr:PutImage\tallowed\necr:BatchGetImage\timplicitDeny"
    said_of_pull = aws.text(
        f"aws iam simulate-custom-policy --policy-input-list file://lists.json --context-entries {region} "
        f"--action-names ecr:PutImage ecr:BatchGetImage {asked}"
    )
    assert said_of_pull == "ecr:PutImage\timplicitDeny\necr:BatchGetImage\tallowed"

    assert aws(f"aws iam list-entities-for-policy --policy-arn {arn} --query PolicyUsers[].UserName") == ["ann"]
    aws(f"aws iam tag-policy --policy-arn {arn} --tags Key=c,Value=d")
    aws(f"aws iam untag-policy --policy-arn {arn} --tag-keys a")
    assert aws(f"aws iam list-policy-tags --policy-arn {arn}")["Tags"] == [{"Key": "c", "Value": "d"}]
    attached = aws("aws iam list-attached-user-policies --user-name ann --query AttachedPolicies[].PolicyArn")
    assert attached == [arn]
    assert said(aws.error(f"aws iam delete-policy --policy-arn {arn}"))[0] == "DeleteConflict"
    aws(f"aws iam detach-user-policy --user-name ann --policy-arn {arn}")
    aws(f"aws iam delete-policy-version --policy-arn {arn} --version-id v2")
    aws(f"aws iam delete-policy --policy-arn {arn}")
    gone = ("NoSuchEntity", f"Policy {arn} was not found.")
    assert said(aws.error(f"aws iam get-policy --policy-arn {arn}")) == gone


def test_a_role_that_a_user_takes(aws: Aws, account: str) -> None:
    ci, session = f"arn:aws:iam::{account}:role/build/ci", f"arn:aws:sts::{account}:assumed-role/ci/run-7"
    aws("aws iam create-user --user-name ann")
    ann = aws.as_(*key_of(aws("aws iam create-access-key --user-name ann")))
    trusted = allow(["sts:AssumeRole", "sts:TagSession"], Principal={"AWS": f"arn:aws:iam::{account}:user/ann"})
    aws.write("trust.json", policy({**trusted, "Condition": {"StringEquals": {"sts:ExternalId": "e-77"}}}))
    made = aws(
        "aws iam create-role --role-name ci --path /build/ --assume-role-policy-document file://trust.json "
        "--max-session-duration 7200 --tags Key=team,Value=blue"
    )["Role"]
    assert (made["Arn"], made["RoleId"][:4]) == (ci, "AROA")
    nobody = '\'{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":"%s"}}}\''
    unknown = said(
        aws.error(
            "aws iam create-role --role-name no --assume-role-policy-document "
            + nobody % f"arn:aws:iam::{account}:user/nobody"
        )
    )
    assert unknown[0] == "MalformedPolicyDocument"
    assert unknown[1].startswith("Invalid principal in policy")
    aws(f"aws iam attach-role-policy --role-name ci --policy-arn {POWER_USER}")
    aws.write("create.json", policy(allow("ecr:CreateRepository", Resource="*")))
    aws("aws iam put-role-policy --role-name ci --policy-name create --policy-document file://create.json")
    assert aws("aws iam list-role-policies --role-name ci")["PolicyNames"] == ["create"]
    assert aws("aws iam get-role-policy --role-name ci --policy-name create")["RoleName"] == "ci"
    attached = aws("aws iam list-attached-role-policies --role-name ci --query AttachedPolicies[].PolicyArn")
    assert attached == [POWER_USER]

    # She takes it: with the external id, and no longer than the role allows.
    take = f"aws sts assume-role --role-arn {ci} --role-session-name run-7"
    denied = f"User: arn:aws:iam::{account}:user/ann is not authorized to perform: sts:AssumeRole on resource: {ci}"
    assert said(ann.error(take)) == ("AccessDenied", denied)
    long = said(ann.error(f"{take} --external-id e-77 --duration-seconds 7201"))
    assert long == (
        "ValidationError",
        "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
    )
    taken = ann(f"{take} --external-id e-77 --tags Key=run,Value=7")
    assert taken["AssumedRoleUser"]["Arn"] == session
    whole = ann.as_(*key_of(taken))
    assert whole("aws sts get-caller-identity")["UserId"] == f"{made['RoleId']}:run-7"
    assert whole("aws ecr create-repository --repository-name team/app")["repository"]["registryId"] == account

    # The same role, narrowed by a session policy.
    aws.write("narrow.json", policy(allow([LOGIN, *PULL], Resource="*")))
    narrow = ann.as_(*key_of(ann(f"{take} --external-id e-77 --policy file://narrow.json")))
    assert narrow.text("aws ecr get-login-password") != ""
    short = said(narrow.error("aws ecr create-repository --repository-name team/two"))[1]
    assert short.startswith(f"User: {session} is not authorized to perform: ecr:CreateRepository on resource: ")
    assert short.endswith("because no session policy allows the ecr:CreateRepository action")

    # A boundary: the most that the role may do, whatever its policies say. It counts for sessions that are there.
    aws.write("edge.json", policy(allow(["ecr:Describe*", *PULL], Resource="*")))
    edge = aws("aws iam create-policy --policy-name edge --policy-document file://edge.json")["Policy"]["Arn"]
    aws(f"aws iam put-role-permissions-boundary --role-name ci --permissions-boundary {edge}")
    bounded = said(whole.error("aws ecr create-repository --repository-name team/three"))[1]
    assert bounded.endswith("because no permissions boundary allows the ecr:CreateRepository action")
    aws("aws iam delete-role-permissions-boundary --role-name ci")
    assert whole("aws ecr create-repository --repository-name team/three")
    aws(f"aws iam put-user-permissions-boundary --user-name ann --permissions-boundary {edge}")
    shown = aws("aws iam get-user --user-name ann")["User"]["PermissionsBoundary"]
    assert shown["PermissionsBoundaryArn"] == edge
    aws("aws iam delete-user-permissions-boundary --user-name ann")

    # What a role says of itself, and how it changes.
    aws("aws iam update-role --role-name ci --max-session-duration 3600")
    assert aws("aws iam update-role-description --role-name ci --description builds")["Role"]["RoleName"] == "ci"
    aws("aws iam tag-role --role-name ci --tags Key=cost,Value=9")
    aws("aws iam untag-role --role-name ci --tag-keys team")
    assert aws("aws iam list-role-tags --role-name ci")["Tags"] == [{"Key": "cost", "Value": "9"}]
    read = aws("aws iam get-role --role-name ci")["Role"]
    assert (read["Description"], read["MaxSessionDuration"]) == ("builds", 3600)
    assert read["AssumeRolePolicyDocument"]["Statement"][0]["Condition"] == {"StringEquals": {"sts:ExternalId": "e-77"}}
    assert aws("aws iam list-roles --path-prefix /build/ --query Roles[].RoleName") == ["ci"]
    aws.write("nobody.json", policy({**trusted, "Effect": "Deny"}))
    aws("aws iam update-assume-role-policy --role-name ci --policy-document file://nobody.json")
    assert said(ann.error(f"{take} --external-id e-77"))[0] == "AccessDenied"

    conflict = ("DeleteConflict", "Cannot delete entity, must detach all policies first.")
    assert said(aws.error("aws iam delete-role --role-name ci")) == conflict
    aws(f"aws iam detach-role-policy --role-name ci --policy-arn {POWER_USER}")
    aws("aws iam delete-role-policy --role-name ci --policy-name create")
    aws("aws iam delete-role --role-name ci")
    assert said(whole.error("aws sts get-caller-identity"))[0] == "InvalidClientTokenId"
    service = "aws iam create-service-linked-role --aws-service-name replication.ecr.amazonaws.com"
    assert said(aws.error(service))[0] == "InvalidInput"


def test_an_issuer_that_an_account_trusts(aws: Aws, account: str) -> None:
    host = "token.actions.example.com"
    arn = aws(
        f"aws iam create-open-id-connect-provider --url https://{host} --client-id-list sts.amazonaws.com "
        "--tags Key=a,Value=b"
    )["OpenIDConnectProviderArn"]
    assert arn == f"arn:aws:iam::{account}:oidc-provider/{host}"
    named = f"--open-id-connect-provider-arn {arn}"
    aws(f"aws iam add-client-id-to-open-id-connect-provider {named} --client-id other")
    aws(f"aws iam remove-client-id-from-open-id-connect-provider {named} --client-id sts.amazonaws.com")
    thumbprint = "6938fd4d98bab03faadb97b34396831e3780aea1"
    aws(f"aws iam update-open-id-connect-provider-thumbprint {named} --thumbprint-list {thumbprint}")
    aws(f"aws iam tag-open-id-connect-provider {named} --tags Key=c,Value=d")
    aws(f"aws iam untag-open-id-connect-provider {named} --tag-keys a")
    assert aws(f"aws iam list-open-id-connect-provider-tags {named}")["Tags"] == [{"Key": "c", "Value": "d"}]
    read = aws(f"aws iam get-open-id-connect-provider {named}")
    assert (read["Url"], read["ClientIDList"], read["ThumbprintList"]) == (host, ["other"], [thumbprint])
    assert aws("aws iam list-open-id-connect-providers")["OpenIDConnectProviderList"] == [{"Arn": arn}]
    take = f"aws sts assume-role-with-web-identity --role-arn arn:aws:iam::{account}:role/ci --role-session-name run"
    assert said(aws.error(f"{take} --web-identity-token no-token"))[0] == "InvalidIdentityToken"
    aws(f"aws iam delete-open-id-connect-provider {named}")
    assert said(aws.error(f"aws iam get-open-id-connect-provider {named}"))[0] == "NoSuchEntity"


def test_the_account_as_a_whole(aws: Aws, account: str) -> None:
    aws(f"aws iam create-account-alias --account-alias harbour-{account}")
    assert aws("aws iam list-account-aliases")["AccountAliases"] == [f"harbour-{account}"]
    aws(f"aws iam delete-account-alias --account-alias harbour-{account}")
    summary = aws("aws iam get-account-summary")["SummaryMap"]
    assert (summary["Users"], summary["AccessKeysPerUserQuota"]) == (1, 2)
    [detail] = aws("aws iam get-account-authorization-details --filter User")["UserDetailList"]
    assert detail["AttachedManagedPolicies"][0]["PolicyName"] == "AdministratorAccess"
    aws.write("trust.json", policy(allow("sts:AssumeRole", Principal={"AWS": account})))
    aws("aws iam create-role --role-name r --assume-role-policy-document file://trust.json")

    # What nobody has here, so that tools which clean up find nothing in their way.
    for command, member in (
        ("list-instance-profiles-for-role --role-name r", "InstanceProfiles"),
        ("list-mfa-devices", "MFADevices"),
        ("list-virtual-mfa-devices", "VirtualMFADevices"),
        ("list-ssh-public-keys", "SSHPublicKeys"),
        ("list-signing-certificates", "Certificates"),
        ("list-service-specific-credentials", "ServiceSpecificCredentials"),
    ):
        assert aws(f"aws iam {command}")[member] == []
    none = ("NoSuchEntity", "Login Profile for User administrator cannot be found.")
    for command in ("get-login-profile", "delete-login-profile"):
        assert said(aws.error(f"aws iam {command} --user-name administrator")) == none


def test_every_operation_of_iam_and_sts_was_typed() -> None:
    typed = set(re.findall(r"(?:aws (?:iam|sts) |\")([a-z]+(?:-[a-z]+)+)", Path(__file__).read_text()))
    sts = {"get-caller-identity", "get-session-token", "assume-role", "assume-role-with-web-identity"}
    served = sts | {xform_name(name, "-") for name in IAM}
    assert served - typed == set()
