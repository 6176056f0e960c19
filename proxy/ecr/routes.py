"""POST / - the AWS door. The table below is all that it serves.

    X-Amz-Target: AmazonEC2ContainerRegistry_V20150921.<Operation>     JSON 1.1, signed for `ecr`
    no target, signed for `sts`                                        the query protocol (`sts.py`)

Each request: signature, body, policy, then the metadata service, which speaks the same language. Promises: nothing is
forwarded before the one policy evaluator has allowed it; every answer has an x-amzn-RequestId and a Date (SDKs correct
their clocks by it); no header, secret or token gets into a log line or an error.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from proxy import observe
from proxy.auth import administrators as policy
from proxy.auth.envelope import SmallSealer
from proxy.auth.sessions import Sessions
from proxy.auth.sigv4 import Claim, Refused
from proxy.auth.tokens import Tokens
from proxy.ecr import sts
from proxy.ecr.authorization import authorization_data
from proxy.ecr.errors import (
    Unreadable,
    ecr_error,
    json_answer,
    render_json,
    render_xml,
    sts_error,
    unknown_operation,
    xml_answer,
)
from proxy.ecr.parameters import (
    Ask,
    check_registry,
    listed_repositories,
    named_repository,
    read_parameters,
    whole_registry,
)
from proxy.ecr.services import ECR, STS, service_of
from proxy.ecr.signed import Signatures, claim_of
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure

TARGET_PREFIX = "AmazonEC2ContainerRegistry_V20150921."


@dataclass(frozen=True, slots=True)
class Route:
    """An operation: its IAM action, and the ARNs on which the action must be allowed."""

    action: str
    resources: Callable[[Ask], Sequence[str]]


ROUTES: Mapping[str, Route] = {
    "GetAuthorizationToken": Route("ecr:GetAuthorizationToken", whole_registry),
    "CreateRepository": Route("ecr:CreateRepository", named_repository),
    "DescribeRepositories": Route("ecr:DescribeRepositories", listed_repositories),
    "DeleteRepository": Route("ecr:DeleteRepository", named_repository),
    "ListImages": Route("ecr:ListImages", named_repository),
    "DescribeImages": Route("ecr:DescribeImages", named_repository),
    "BatchGetImage": Route("ecr:BatchGetImage", named_repository),
    "BatchDeleteImage": Route("ecr:BatchDeleteImage", named_repository),
}


def door(
    *,
    metadata: Metadata,
    secrets: SmallSealer,
    sessions: Sessions,
    tokens: Tokens,
    account: str,
    region: str,
    proxy_endpoint: str | None,
    clock: Callable[[], float],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for POST /.

    `secrets` is a sealer for `auth.secrets.PURPOSE`, `sessions` opens session tokens. `proxy_endpoint` is what
    GetAuthorizationToken hands out, with `{account}` and `{region}` filled in; None: the address that the request
    itself used. `clock` tells epoch seconds.
    """
    signatures = Signatures(metadata, secrets, sessions, region=region, clock=clock)

    async def answer(request: web.Request) -> web.StreamResponse:
        request_id = observe.request_id() or str(uuid.uuid4())
        query_protocol = service_of(request) is not ECR
        try:
            claim = claim_of(request)
            if query_protocol:
                caller, body = await signatures.read(request, claim, STS)
                return xml_answer(sts.answer(caller.principal, body, request_id), request_id)
            return json_answer(await call(request, claim), request_id)
        except (Failure, Refused, Unreadable) as error:
            if query_protocol:
                return render_xml(sts_error(error), request_id)
            return render_json(ecr_error(error), request_id)

    async def call(request: web.Request, claim: Claim) -> bytes:
        operation = _operation(request)
        caller, body = await signatures.read(request, claim, ECR)
        principal = caller.principal
        observe.note(operation=operation)
        route = ROUTES.get(operation)
        if route is None:
            raise unknown_operation(operation)
        ask = Ask(principal, operation, read_parameters(body), account, region)
        check_registry(ask.parameters.get("registryId"), account)
        for resource in route.resources(ask):
            policy.require(principal, route.action, resource)
        if operation == "GetAuthorizationToken":
            found = authorization_data(ask, tokens, _endpoint(request), clock())
        else:
            found = await metadata.call(account, operation, ask.parameters)
        return json.dumps(found, separators=(",", ":")).encode()

    def _endpoint(request: web.Request) -> str:
        if proxy_endpoint is None:
            return f"{request.scheme}://{request.host}"
        return proxy_endpoint.replace("{account}", account).replace("{region}", region)

    return answer


def _operation(request: web.Request) -> str:
    target = request.headers.get("X-Amz-Target", "")
    prefix, operation = target[: len(TARGET_PREFIX)], target[len(TARGET_PREFIX) :]
    return operation if prefix == TARGET_PREFIX else ""
