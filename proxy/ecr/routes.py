"""POST /: the AWS APIs. The table below has all operations of `ecr` that are served. `app.router` calls `handler`.

    X-Amz-Target: AmazonEC2ContainerRegistry_V20150921.<Operation>     JSON 1.1, signed for `ecr`
    X-Amz-Target: secretsmanager.<Operation>                           JSON 1.1 of another service (`json_services`)
    no target, signed for `sts` or `iam`, or of their Version          the query protocol (`query`), also by GET

Each request: signature, body, rate, policy, then the metadata service, which has the same operations. Promises: nothing
is forwarded before the policy evaluator has allowed it; every response has an x-amzn-RequestId and a Date (SDKs correct
their clocks by it); no header, secret or token gets into a log line or an error.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from proxy import observe
from proxy.audit.trail import Trail
from proxy.auth.access import Access, repository_named
from proxy.auth.rates import RateLimiter
from proxy.auth.sigv4 import SignatureRefused
from proxy.auth.tokens import Tokens
from proxy.blob.keys import DataKeys
from proxy.ecr import repository_keys, upstream_images
from proxy.ecr.audit_record import ApiAuditRecord, emit
from proxy.ecr.authorization import Endpoints, authorization_data
from proxy.ecr.bodies import off_loop
from proxy.ecr.body_limiter import BodyLimiter
from proxy.ecr.errors import (
    UnreadableRequest,
    ecr_error,
    json_answer,
    query_error,
    render_json,
    unknown_operation,
)
from proxy.ecr.json_services import JsonService, answer_json
from proxy.ecr.key_rights import KeyRights
from proxy.ecr.layers import UPLOAD_PART, LayerOperations, taken_part
from proxy.ecr.lockout import refuse_lockout
from proxy.ecr.parameters import (
    Ask,
    Keys,
    given_manifest,
    given_registry,
    given_setting,
    given_tag_keys,
    given_tags,
    listed_repositories,
    making_by_template,
    named_repository,
    no_echo,
    no_keys,
    no_permissions,
    none_but_own,
    own_registry,
    read_parameters,
    registry_of_arn,
    tagged_repository,
    tagging,
    whole_registry,
)
from proxy.ecr.pull_through import OPERATIONS as RULE_OPERATIONS
from proxy.ecr.pull_through import PullThrough
from proxy.ecr.query import QueryHandlers, answer_query, refuse_query
from proxy.ecr.services import ECR, WITH_MANIFEST, ApiService, has_large_body, service_of, speaks_json
from proxy.ecr.signed_request import Admit, Signatures, claim_of
from proxy.http.request_info import request_info_of
from proxy.jobs.previews import Previews
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.identity import Caller
from proxy.registry.mirror.mirror import Mirror
from proxy.registry.pull_times import PullTimes

LARGE_AT_ONCE = 4  # bodies past JSON_MAX that a worker has, each of some 60 MiB until it is stored; others wait
IN_PROGRESS = "IN_PROGRESS"  # of a preview of a lifecycle policy
TARGET_PREFIX = "AmazonEC2ContainerRegistry_V20150921."


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """An operation: its registry; the ARNs on which its action, `ecr:` with its own name, must be allowed, with its own
    condition keys; other actions that must be allowed, and on what, or on all names `below` an ARN that ends in a star;
    how much of a body is read; and the members that the output repeats from the input. `action` is the name of another
    action, if ECR has none for this operation."""

    registry: Callable[[Mapping[str, Any], Caller], str]
    resources: Callable[[Ask], Sequence[str]]
    keys: Callable[[Ask], Keys] = no_keys
    also: Callable[[Ask], Sequence[tuple[str, str]]] = no_permissions
    below: Callable[[Ask], Sequence[tuple[str, str]]] = no_permissions
    action: str = ""
    service: ApiService = ECR
    echo: Callable[[Ask, Mapping[str, Any]], Mapping[str, Any]] = no_echo


ROUTES: Mapping[str, ApiRoute] = {
    "GetAuthorizationToken": ApiRoute(own_registry, whole_registry),
    # repositories
    "CreateRepository": ApiRoute(given_registry, named_repository, given_tags, tagging),
    "DescribeRepositories": ApiRoute(given_registry, listed_repositories),
    "DeleteRepository": ApiRoute(given_registry, named_repository),
    "SetRepositoryPolicy": ApiRoute(given_registry, named_repository),
    "GetRepositoryPolicy": ApiRoute(given_registry, named_repository),
    "DeleteRepositoryPolicy": ApiRoute(given_registry, named_repository),
    "PutImageScanningConfiguration": ApiRoute(given_registry, named_repository),
    "TagResource": ApiRoute(registry_of_arn, tagged_repository, given_tags),
    "UntagResource": ApiRoute(registry_of_arn, tagged_repository, given_tag_keys),
    "ListTagsForResource": ApiRoute(registry_of_arn, tagged_repository),
    # images
    "PutImage": ApiRoute(given_registry, named_repository, service=WITH_MANIFEST, echo=given_manifest),
    "PutImageTagMutability": ApiRoute(given_registry, named_repository),
    "ListImageReferrers": ApiRoute(given_registry, named_repository, action="BatchGetImage"),
    "ListImages": ApiRoute(given_registry, named_repository),
    "DescribeImages": ApiRoute(given_registry, named_repository),
    "BatchGetImage": ApiRoute(given_registry, named_repository),
    "BatchDeleteImage": ApiRoute(given_registry, named_repository),
    "UpdateImageStorageClass": ApiRoute(given_registry, named_repository),
    "DescribeImageReplicationStatus": ApiRoute(given_registry, named_repository),
    # lifecycle policies
    "PutLifecyclePolicy": ApiRoute(given_registry, named_repository),
    "GetLifecyclePolicy": ApiRoute(given_registry, named_repository),
    "DeleteLifecyclePolicy": ApiRoute(given_registry, named_repository),
    "StartLifecyclePolicyPreview": ApiRoute(given_registry, named_repository),
    "GetLifecyclePolicyPreview": ApiRoute(given_registry, named_repository),
    # layers
    "InitiateLayerUpload": ApiRoute(given_registry, named_repository),
    "UploadLayerPart": ApiRoute(given_registry, named_repository),
    "CompleteLayerUpload": ApiRoute(given_registry, named_repository),
    "BatchCheckLayerAvailability": ApiRoute(given_registry, named_repository),
    "GetDownloadUrlForLayer": ApiRoute(given_registry, named_repository),
    # the registry
    "DescribeRegistry": ApiRoute(own_registry, whole_registry),
    "PutReplicationConfiguration": ApiRoute(own_registry, whole_registry),
    "StartReplicationBackfill": ApiRoute(none_but_own, whole_registry),
    "StopReplicationBackfill": ApiRoute(none_but_own, whole_registry),
    "ListReplicationBackfills": ApiRoute(none_but_own, whole_registry),
    "DescribeReplicationBackfillResults": ApiRoute(none_but_own, whole_registry),
    "GetRegistryScanningConfiguration": ApiRoute(own_registry, whole_registry),
    "GetSigningConfiguration": ApiRoute(own_registry, whole_registry),
    "PutRegistryPolicy": ApiRoute(own_registry, whole_registry),
    "GetRegistryPolicy": ApiRoute(own_registry, whole_registry),
    "DeleteRegistryPolicy": ApiRoute(own_registry, whole_registry),
    "PutAccountSetting": ApiRoute(own_registry, whole_registry, given_setting),
    "GetAccountSetting": ApiRoute(own_registry, whole_registry, given_setting),
    "CreateRepositoryCreationTemplate": ApiRoute(own_registry, whole_registry, given_tags, below=making_by_template),
    "DescribeRepositoryCreationTemplates": ApiRoute(own_registry, whole_registry),
    "UpdateRepositoryCreationTemplate": ApiRoute(own_registry, whole_registry, given_tags, below=making_by_template),
    "DeleteRepositoryCreationTemplate": ApiRoute(own_registry, whole_registry),
    "CreatePullThroughCacheRule": ApiRoute(none_but_own, whole_registry),
    "DescribePullThroughCacheRules": ApiRoute(none_but_own, whole_registry),
    "UpdatePullThroughCacheRule": ApiRoute(none_but_own, whole_registry),
    "DeletePullThroughCacheRule": ApiRoute(none_but_own, whole_registry),
    "ValidatePullThroughCacheRule": ApiRoute(none_but_own, whole_registry),
    "RegisterPullTimeUpdateExclusion": ApiRoute(own_registry, whole_registry),
    "DeregisterPullTimeUpdateExclusion": ApiRoute(own_registry, whole_registry),
    "ListPullTimeUpdateExclusions": ApiRoute(own_registry, whole_registry),
}

FIXED: Mapping[str, str] = {
    "GetRegistryScanningConfiguration": "ECR's default: basic scans, no rules",
    "GetSigningConfiguration": "there is none: SigningConfigurationNotFoundException",
}
"""Operations of the table with the same output for every image or registry; see docs/compatibility.md."""


def handler(
    *,
    metadata: Metadata,
    access: Access,
    signatures: Signatures,
    keys: DataKeys,
    tokens: Tokens,
    endpoints: Endpoints,
    layers: LayerOperations,
    query_handlers: QueryHandlers,
    trail: Trail,
    clock: Callable[[], float],
    rates: RateLimiter | None = None,
    pulls: PullTimes | None = None,
    previews: Previews | None = None,
    allowed_keys: Sequence[str] = (),
    json_services: Mapping[str, JsonService] = {},
    pull_through: PullThrough | None = None,
    mirror: Mirror | None = None,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for `/`. Every call is recorded in `trail`; `clock` returns epoch seconds. `rates`, if any, count
    each signed request before authorisation; `pulls` records pull times. `allowed_keys` as in `[keys] allowed`;
    `json_services` are those of `services.TARGETS`, by name; `pull_through` serves the operations on rules that need
    more than rows, and `mirror` pulls through the rules; `previews` computes those of lifecycle policies."""
    key_rights = KeyRights(access, allowed_keys)
    hosts = endpoints.hosts
    large = BodyLimiter(LARGE_AT_ONCE, LARGE_AT_ONCE - 1)

    async def answer(request: web.Request) -> web.StreamResponse:
        request_id = observe.request_id() or str(uuid.uuid4())
        service = service_of(request)
        record = ApiAuditRecord(
            service, hosts.account, request_info_of(request, now=clock(), region=hosts.region), request_id
        )
        try:
            record.account = hosts.account_of(request.host)  # Failure for a registry of another region
            if service is ECR:
                return json_answer(await call(request, record), request_id)
            if speaks_json(service):
                beside = json_services[service.name]
                return json_answer(await answer_json(request, beside, signatures, record, trail.require), request_id)
            return await answer_query(request, query_handlers, signatures, record, trail.require)
        except (Failure, SignatureRefused, UnreadableRequest) as error:
            as_json = speaks_json(service)
            wire = ecr_error(error) if as_json else query_error(error)
            record.failed(wire)
            return render_json(wire, request_id) if as_json else refuse_query(request, service, wire, request_id)
        finally:
            await emit(trail, record)

    async def call(request: web.Request, record: ApiAuditRecord) -> bytes:
        operation = _operation(request)
        record.set_operation(operation)
        route = ROUTES.get(operation)
        if route is None or not has_large_body(request, route.service):
            return await serve(request, operation, record)
        async with contextlib.AsyncExitStack() as held:
            return await serve(
                request,
                operation,
                record,
                lambda body: held.enter_async_context(large.admit(body.account, lambda: body.received)),
            )

    async def serve(request: web.Request, operation: str, record: ApiAuditRecord, slot: Admit | None = None) -> bytes:
        if operation == UPLOAD_PART:
            async with taken_part(request, signatures, layers.folder, layers.limiter) as part:
                record.set_caller(part.caller)
                observe.note(operation=operation)
                ask = await allowed(operation, part.caller, part.parameters, record)
                found = await layers.add_part(ask, part.content)
        else:
            route = ROUTES.get(operation)
            service = ECR if route is None else route.service
            caller, body = await signatures.read(request, claim_of(request), service, slot)
            record.set_caller(caller)
            observe.note(operation=operation)
            if route is None:
                raise unknown_operation(operation)
            parameters = await off_loop(len(body), read_parameters, body)
            del body  # it may have some MiB: free it before the metadata service is called
            ask = await allowed(operation, caller, parameters, record)
            found = route.echo(ask, await execute(ask, request, record))
        record.succeeded(found)
        return await off_loop(_size(found), _rendered, found)

    async def allowed(operation: str, caller: Caller, parameters: Mapping[str, Any], record: ApiAuditRecord) -> Ask:
        route = ROUTES[operation]
        record.parameters = parameters
        if rates is not None:
            await rates.require(caller, operation)
        record.account = account = route.registry(parameters, caller)
        ask = Ask(caller, operation, parameters, account, hosts.region, record.info)
        conditions = route.keys(ask)
        record.resources = route.resources(ask)
        own = [(f"ecr:{route.action or operation}", resource) for resource in record.resources]
        if len(own) > 1:  # fetched together into the cache, where the decisions find them
            await metadata.repositories_access(account, [repository_named(resource) for resource in record.resources])
        for action, resource in (*own, *route.also(ask)):
            await access.require(caller, action, resource, record.info, conditions)
        for action, resource in route.below(ask):
            await access.require(caller, action, resource, record.info, conditions, below=True)
        if not record.is_read:
            await trail.require()
        return ask

    async def execute(ask: Ask, request: web.Request, record: ApiAuditRecord) -> Mapping[str, Any]:
        """Execute an allowed call: here, or in the metadata service."""
        if ask.operation == "GetAuthorizationToken":
            return authorization_data(ask, tokens, endpoints, request)
        if ask.operation == "InitiateLayerUpload":
            return await layers.initiate(ask)
        if ask.operation == "CompleteLayerUpload":
            return await layers.complete(ask)
        if ask.operation == "GetDownloadUrlForLayer":
            return await layers.download_url(ask, request)
        if ask.operation == "SetRepositoryPolicy" and ask.parameters.get("force") is not True:
            await refuse_lockout(ask, metadata)
        if pull_through is not None and ask.operation in RULE_OPERATIONS:
            return await pull_through.call(ask)
        call_rows = partial(repository_keys.call, keys, key_rights, metadata, ask)
        if mirror is not None and ask.operation == "BatchGetImage":
            found = await upstream_images.answer(mirror, access, ask, record, call_rows)
        elif mirror is not None and ask.operation == "ListImageReferrers":
            found = await upstream_images.list_referrers(mirror, access, ask, call_rows)
        else:
            found = await call_rows()
        if previews is not None and ask.operation.endswith("LifecyclePolicyPreview") and found["status"] == IN_PROGRESS:
            previews.begin(ask.account, found["repositoryName"])
        if pulls is not None and ask.operation == "BatchGetImage":
            for image in found["images"]:
                name, digest = image["repositoryName"], image["imageId"]["imageDigest"]
                pulls.pulled(ask.account, name, digest, ask.caller.principal.arn)
        return found

    return answer


def _size(found: Mapping[str, Any]) -> int:
    """Characters of manifests, or the most that annotations can have: only these make an output large."""
    manifests = sum(len(each.get("imageManifest", "")) for each in (*found.get("images", ()), found.get("image", {})))
    annotated: int = sum(each["size"] for each in found.get("referrers", ()))
    return manifests + annotated


def _rendered(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()


def _operation(request: web.Request) -> str:
    target = request.headers.get("X-Amz-Target", "")
    prefix, operation = target[: len(TARGET_PREFIX)], target[len(TARGET_PREFIX) :]
    return operation if prefix == TARGET_PREFIX else ""
