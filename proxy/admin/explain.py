"""policy explain: whom it asks about, what has a say, and how the explanation reads."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.admin.session import CommandRefused, visiting
from proxy.app.context import WorkerContext
from proxy.auth.access import repository_named
from proxy.auth.policy.context import RequestInfo, request_context, resource_account
from proxy.auth.policy.decision import Question
from proxy.auth.policy.explain import Explanation, Verdict, explain_trust
from proxy.auth.policy.explain import explain as explained
from proxy.config.settings import Config
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, Principal, Session, SessionKind

_ROOT = re.compile(r"arn:aws:iam::([0-9]{12}):root", re.ASCII)
_NAMED = re.compile(r"arn:aws:iam::([0-9]{12}):(user|role)/(?:[!-~]*/)?([\w+=,.@-]+)", re.ASCII)
_SESSION = re.compile(r"arn:aws:sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)/([\w+=,.@-]+)", re.ASCII)
_ACTION = re.compile(r"[a-z0-9-]+:[A-Za-z0-9]+", re.ASCII)
_RESOURCE = re.compile(r"\*|arn:aws:[a-z0-9-]+:[a-z0-9-]*:([0-9]{12}|aws)?:\S+", re.ASCII)
_SESSION_SECONDS = 3600
_TRUST_ACTIONS = frozenset({"sts:assumerole", "sts:tagsession", "sts:setsourceidentity"})


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """What was asked, and the answer. `notes` are what is not there, and was not looked at."""

    principal: str
    action: str
    resource: str
    explanation: Explanation
    notes: tuple[str, ...]


def explain(
    config: Config, principal: str, action: str, resource: str, context: Mapping[str, Sequence[str]]
) -> ExplainedRequest:
    """`CommandRefused` for a principal that is not there, and for what is no action or resource."""
    if not _ACTION.fullmatch(action):
        raise CommandRefused(f"{action[:64]!r} is no action; they are written as ecr:PutImage")
    if not _RESOURCE.fullmatch(resource):
        raise CommandRefused(
            f"{resource[:128]!r} is no resource; they are written as "
            f"arn:aws:ecr:{config.registry.region}:{config.registry.account}:repository/team/app, or *"
        )
    keys = {key.lower(): tuple(values) for key, values in context.items()}

    async def run(own: WorkerContext) -> ExplainedRequest:
        now = time.time()
        caller = await find_caller(own.metadata, principal, now)
        info = RequestInfo(now, "", True, "", config.registry.region)
        explanation, notes = await _explained(own.metadata, caller, action, resource, info, keys)
        return ExplainedRequest(caller.arn, action, resource, explanation, notes)

    return asyncio.run(visiting(config, run))


async def _explained(
    metadata: Metadata,
    caller: Caller,
    action: str,
    resource: str,
    info: RequestInfo,
    keys: Mapping[str, Sequence[str]],
) -> tuple[Explanation, tuple[str, ...]]:
    named = _NAMED.fullmatch(resource)
    if action.lower() in _TRUST_ACTIONS and named is not None and named[2] == "role":
        role = await metadata.role(named[1], named[3])
        if role is None or role.principal.arn != resource:
            raise CommandRefused(f"there is no role {resource} here")
        context = request_context(caller, info, resource, role.principal.tags, keys)
        return explain_trust(caller, "", role, action, context), ()
    if not action.lower().startswith("ecr:"):
        context = request_context(caller, info, resource, (), keys)
        return explained(caller, Question(action, resource, context), None, None), ()
    notes = []
    account = resource_account(resource, caller)
    registry = await metadata.registry_access(account)
    if not registry.exists:
        notes.append(f"there is no account {account} here, or it is closed")
    name = repository_named(resource)
    repository = await metadata.repository_access(account, name) if name and registry.exists else None
    if repository is not None and not repository.exists:
        notes.append(f"there is no repository {name} in the registry of {account}")
    tags = repository.tags if repository is not None else ()
    context = request_context(caller, info, resource, tags, keys)
    return explained(caller, Question(action, resource, context), repository, registry), tuple(notes)


async def find_caller(metadata: Metadata, arn: str, now: float) -> Caller:
    """Whom an ARN names; a role's session is one that began just now and that nothing narrows. `CommandRefused`."""
    root, session, named = _ROOT.fullmatch(arn), _SESSION.fullmatch(arn), _NAMED.fullmatch(arn)
    found: Principal | None = None
    if root is not None:
        found = await metadata.principal(root[1])
    elif session is not None:
        role = await metadata.role(session[1], session[2])
        if role is not None and role.principal.name == session[2]:
            kept = Session(SessionKind.ROLE, session[3], now, now + _SESSION_SECONDS)
            return Caller(role.principal, kept)
    elif named is None:
        raise CommandRefused(
            f"{arn[:256]!r} is not the ARN of a principal; write it as arn:aws:iam::ACCOUNT:user/NAME, "
            "…:role/NAME, …:root, or arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION"
        )
    elif named[2] == "role":
        role = await metadata.role(named[1], named[3])
        found = role.principal if role is not None else None
    else:
        found = await _user(metadata, named[1], named[3])
    if found is None or (root is None and found.arn != arn):
        other = f"; did you mean {found.arn}?" if found is not None else ""
        raise CommandRefused(f"there is no principal {arn} here, or its account is closed{other}")
    return Caller(found)


async def _user(metadata: Metadata, account: str, name: str) -> Principal | None:
    try:
        described = await metadata.iam(account, "GetUser", {"UserName": name})
    except Failure as failure:
        if failure.code is Code.NO_SUCH_ENTITY:
            return None
        raise
    return await metadata.principal(described["User"]["UserId"])


def as_document(request: ExplainedRequest) -> dict[str, Any]:
    """For programs."""
    decision, deciding = request.explanation.decision, request.explanation.deciding
    return {
        "allowed": decision.allowed,
        "principal": request.principal,
        "action": request.action,
        "resource": request.resource,
        "message": decision.message,
        "explicit_deny": decision.explicit,
        "decided_by": {"kind": decision.by, "statement": None if deciding is None else _statement(deciding)},
        "statements": [_statement(each) for each in request.explanation.verdicts],
        "notes": list(request.notes),
    }


def _statement(verdict: Verdict) -> dict[str, Any]:
    return {
        "kind": verdict.kind,
        "policy": verdict.policy,
        "holder": verdict.holder,
        "statement": verdict.statement,
        "sid": verdict.sid,
        "effect": verdict.effect,
        "matched": verdict.matched,
        "reason": verdict.reason,
    }


def as_text(request: ExplainedRequest) -> str:
    """For people: the answer, what decided, then every statement that had a say."""
    decision, deciding = request.explanation.decision, request.explanation.deciding
    lines = [
        f"{'ALLOWED' if decision.allowed else 'DENIED'}  {request.action} on {request.resource}",
        f"         for {request.principal}",
    ]
    if decision.message:
        lines.append(f"         {decision.message}")
    lines += [f"note     {note}" for note in request.notes]
    lines.append(f"because  {_because(request, deciding)}")
    policy = None
    for verdict in request.explanation.verdicts:
        here = (verdict.kind, verdict.policy, verdict.holder)
        if here != policy:
            policy = here
            lines += ["", _heading(verdict)]
        sid = f" ({verdict.sid})" if verdict.sid else ""
        applies = "applies" if verdict.matched else "does not apply"
        reason = f": {verdict.reason}" if verdict.reason else ""
        mark = "  <- decides" if verdict is deciding else ""
        lines.append(f"  statement {verdict.statement}{sid}, {verdict.effect}: {applies}{reason}{mark}")
    if not request.explanation.verdicts:
        lines += ["", "no policy has a say in it"]
    return "\n".join(lines)


_KINDS = {
    "identity": "policy",
    "boundary": "permissions boundary",
    "session": "session policy",
    "repository": "the repository's policy",
    "registry": "the registry's policy",
    "trust": "the role's trust policy",
}


def _because(request: ExplainedRequest, deciding: Verdict | None) -> str:
    decision = request.explanation.decision
    if deciding is not None:
        sid = f" ({deciding.sid})" if deciding.sid else ""
        return f"statement {deciding.statement}{sid} of {_heading(deciding)} {_EFFECTS[deciding.effect]} it"
    if decision.allowed:
        return "an account's root may do everything in its own account that no policy denies"
    return f"no {_KINDS.get(decision.by, decision.by)} allows it, and what nothing allows is denied"


_EFFECTS = {"Allow": "allows", "Deny": "denies"}


def _heading(verdict: Verdict) -> str:
    named = f" {verdict.policy}" if verdict.policy else ""
    on = f", on {verdict.holder}" if verdict.holder else ""
    return f"{_KINDS[verdict.kind]}{named}{on}"
