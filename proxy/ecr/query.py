"""The query protocol: a form becomes the input of an action of `sts` or `iam`, and its output XML. Called by `routes`.

Or JSON, as at AWS, for clients that accept it: verifiers of pre-signed identities do.

Callers are authenticated by a signature over the whole request, except for the action that needs none. A form is a
POST's body or a GET's query, as in a pre-signed request; the signature's own parameters among its fields are skipped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from proxy import observe
from proxy.auth.policy.context import RequestInfo
from proxy.auth.sigv4 import SignatureReason, SignatureRefused
from proxy.awsmodel import models
from proxy.awsmodel.query import read_action, read_form, read_parameters, render, render_json
from proxy.awsmodel.validation import validate
from proxy.ecr.audit_record import ApiAuditRecord
from proxy.ecr.bodies import charged, whole
from proxy.ecr.errors import WireError, query_json_answer, render_query_json, render_xml, xml_answer
from proxy.ecr.services import STS, ApiService
from proxy.ecr.signed_request import Signatures, claim_of
from proxy.model.identity import Caller

UNSIGNED = frozenset({"AssumeRoleWithWebIdentity"})
"""Actions of STS whose caller has a token of another issuer instead of a signature."""

UNSIGNED_MAX = 64 * 1024  # of an unsigned body: a web identity is a token of some KiB

for _name in ("sts", "iam"):
    models.service(_name)  # read before the server forks, not in the first request of each worker


class StsHandler(Protocol):
    """`caller` is None for an unsigned request."""

    async def answer(
        self, action: str, caller: Caller | None, parameters: Mapping[str, Any], info: RequestInfo
    ) -> Mapping[str, Any]: ...


class IamHandler(Protocol):
    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo
    ) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class QueryHandlers:
    """The handlers of each service's actions, which return outputs of its model. Failure."""

    sts: StsHandler
    iam: IamHandler


async def answer_query(
    request: web.Request,
    handlers: QueryHandlers,
    signatures: Signatures,
    record: ApiAuditRecord,
    before_write: Callable[[], Awaitable[None]],
) -> web.Response:
    """`record` hears what was asked; `before_write` is awaited where it changes something. Refused, Unreadable,
    Failure."""
    service, info = record.service, record.info
    caller, form = await _read(request, service, signatures)
    record.set_caller(caller)
    record.operation = action = read_action(service.name, form)
    observe.note(operation=action)
    record.parameters = parameters = read_parameters(service.name, action, form)
    if isinstance(role := parameters.get("RoleArn"), str):
        record.set_role(role)
    validate(action, parameters, service.name)
    if not record.is_read:
        await before_write()
    if service is STS or caller is None:
        found = await handlers.sts.answer(action, caller, parameters, info)
    else:
        found = await handlers.iam.answer(action, caller, parameters, info)
    record.succeeded(found)
    if accepts_json(request):
        return query_json_answer(render_json(service.name, action, found, record.request_id), record.request_id)
    return xml_answer(render(service.name, action, found, record.request_id), record.request_id)


def refuse_query(request: web.Request, service: ApiService, error: WireError, request_id: str) -> web.Response:
    """The response to a failed request, in the form that it accepts."""
    if accepts_json(request):
        return render_query_json(error, request_id)
    return render_xml(error, service.name, request_id)


def accepts_json(request: web.Request) -> bool:
    """Whether Accept names JSON and not XML; `*/*` counts as neither."""
    accepted = request.headers.get("Accept", "").lower()
    return "application/json" in accepted and "xml" not in accepted


async def _read(
    request: web.Request, service: ApiService, signatures: Signatures
) -> tuple[Caller | None, Mapping[str, str]]:
    """The caller, None for an action that needs no signature and has none; and the form."""
    try:
        claim = claim_of(request)
    except SignatureRefused as refused:
        if refused.reason is not SignatureReason.MISSING or service is not STS:
            raise
        async with charged(request, signatures.unproven) as charge:
            form = _form(request, await whole(request, UNSIGNED_MAX, charge))
        if form.get("Action") not in UNSIGNED:
            raise
        return None, form
    caller, body = await signatures.read(request, claim, service)
    return caller, _form(request, body)


def _form(request: web.Request, body: bytes) -> Mapping[str, str]:
    return read_form(body if request.method == "POST" else request.raw_path.partition("?")[2].encode())
