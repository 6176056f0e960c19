"""A caller, and one thing that happened, for tests of the audit trail."""

from __future__ import annotations

from proxy.audit.events import AuditEvent
from proxy.model.identity import Caller, Principal, PrincipalKind

ACCOUNT = "123456789012"
ANNA = Principal("AIDAANNA", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/team/anna", "anna")
CI = Principal("AROACI", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/ci", "ci", PrincipalKind.ROLE)
REPOSITORY = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app"

CREATED = AuditEvent(
    source="ecr",
    name="CreateRepository",
    caller=Caller(ANNA, access_key_id="AKIAANNA"),
    account=ACCOUNT,
    region="us-east-1",
    moment=1_790_000_000.7,
    source_ip="192.0.2.7",
    user_agent="aws-cli/1.46",
    request_id="r-1",
    read_only=False,
    resources=(REPOSITORY,),
    parameters={"repositoryName": "team/app"},
    response={"repository": {"repositoryName": "team/app"}},
)
