"""Serves the services beside `ecr` that use JSON 1.1: what is the same for each of them. Called by `routes`.

Proves the signature, reads and validates the input, fills the audit record, and renders. A service answers an action
of its model and says which ARN it was about. Must not know any service.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from proxy import observe
from proxy.auth.policy.context import RequestInfo
from proxy.awsmodel import models
from proxy.awsmodel.validation import validate
from proxy.ecr.audit_record import ApiAuditRecord
from proxy.ecr.parameters import read_parameters
from proxy.ecr.signed_request import Signatures, claim_of
from proxy.model.identity import Caller


class JsonService(Protocol):
    async def answer(
        self, action: str, caller: Caller, parameters: Mapping[str, Any], info: RequestInfo
    ) -> tuple[Mapping[str, Any], str]:
        """The output of a known action, and the ARN that it was about (`*`: none). Failure."""


async def answer_json(
    request: web.Request,
    service: JsonService,
    signatures: Signatures,
    record: ApiAuditRecord,
    before_write: Callable[[], Awaitable[None]],
) -> bytes:
    """The body of an answer. `record` gets the input and output, without members that the model calls sensitive or does
    not know; `before_write` is awaited where it changes something. SignatureRefused, UnreadableRequest, Failure."""
    name = record.service.name
    action = request.headers.get("X-Amz-Target", "").partition(".")[2]
    record.set_operation(action)
    caller, body = await signatures.read(request, claim_of(request), record.service)
    record.set_caller(caller)
    observe.note(operation=record.operation)
    parameters = read_parameters(body)
    record.parameters = _audited(name, action, parameters)
    validate(action, parameters, name)
    if not record.is_read:
        await before_write()
    found, arn = await service.answer(action, caller, parameters, record.info)
    record.resources = (arn,)
    record.succeeded(_audited(name, action, found, "output"))
    return json.dumps(found, separators=(",", ":")).encode()


def _audited(service: str, action: str, members: Mapping[str, Any], side: str = "input") -> Mapping[str, Any]:
    described = models.service(service)["operations"].get(action, {}).get(side)
    if described is None:
        return {}
    known = models.shape(service, described["shape"])["members"]
    return {
        name: value
        for name, value in members.items()
        if name in known and not models.shape(service, known[name]["shape"]).get("sensitive")
    }
