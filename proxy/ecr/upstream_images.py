"""BatchGetImage and ListImageReferrers under a pull-through rule: imports what is missing first, and reports failures.
Called by `routes`.

    the upstream does not have the image       ImageNotFound, as for any other
    the upstream fails                         UpstreamAccessDenied, UpstreamTooManyRequests or UpstreamUnavailable
    the same, and the repository is missing    UnableToGetUpstreamImageException

Source: ImageFailureCode of botocore's `ecr` model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from proxy.auth.access import Access
from proxy.awsmodel.validation import validate
from proxy.ecr.audit_record import ApiAuditRecord
from proxy.ecr.parameters import Ask
from proxy.model.errors import Code, Failure
from proxy.model.names import check_tag, is_digest_like, parse_digest, repository_arn
from proxy.registry.mirror.mirror import Mirror

_OF_UPSTREAM = (Code.UPSTREAM_ACCESS_DENIED, Code.UPSTREAM_TOO_MANY_REQUESTS, Code.UPSTREAM_UNAVAILABLE)
_OF_ROWS = (Code.IMAGE_NOT_FOUND, Code.REPOSITORY_NOT_FOUND, Code.KMS)  # which the output of `rest` reports itself


async def answer(
    mirror: Mirror, access: Access, ask: Ask, record: ApiAuditRecord, rest: Callable[[], Awaitable[Mapping[str, Any]]]
) -> Mapping[str, Any]:
    """The output of `rest`, called once all images that can be imported are. `record` learns which were."""
    validate(ask.operation, ask.parameters)
    name: str = ask.parameters["repositoryName"]
    arn = repository_arn(ask.region, ask.account, name)

    async def may(action: str) -> bool:
        return (await access.decide(ask.caller, action, arn, ask.info)).allowed

    async def bring(image: Mapping[str, str]) -> Failure | None:
        reference = image.get("imageDigest") or image.get("imageTag") or ""
        try:
            parse_digest(reference) if is_digest_like(reference) else check_tag(reference)
        except Failure:
            return None  # the rows say what is wrong with it
        try:
            pulled = await mirror.resolve(ask.account, name, reference, may)
        except Failure as failure:
            if failure.code not in (*_OF_UPSTREAM, *_OF_ROWS):
                raise
            return failure if failure.code in _OF_UPSTREAM else None
        if pulled.imported:
            record.imported.append(image)
        if pulled.created_repository:
            record.created_repository = name
        return None

    wanted: list[Mapping[str, str]] = ask.parameters.get("imageIds") or []
    refused = dict(zip(map(_key, wanted), await asyncio.gather(*map(bring, wanted)), strict=True))
    try:
        found = await rest()
    except Failure as failure:
        told = next((each for each in refused.values() if each is not None), None)
        if failure.code is Code.REPOSITORY_NOT_FOUND and told is not None:
            raise Failure(Code.UNABLE_TO_GET_UPSTREAM_IMAGE, told.message, hint=told.hint) from told
        raise
    failures = []
    for each in found["failures"]:
        told = refused.get(_key(each["imageId"]))
        if told is not None:
            each = each | {"failureCode": told.code.value, "failureReason": told.message}
        failures.append(each)
    return {**found, "failures": failures}


async def list_referrers(
    mirror: Mirror, access: Access, ask: Ask, rest: Callable[[], Awaitable[Mapping[str, Any]]]
) -> Mapping[str, Any]:
    """The output of `rest`, once the upstream's referrers are imported. UnableToListUpstreamImageReferrers."""
    validate(ask.operation, ask.parameters)
    name, digest = ask.parameters["repositoryName"], ask.parameters["subjectId"]["imageDigest"]
    arn = repository_arn(ask.region, ask.account, name)

    async def may(action: str) -> bool:
        return (await access.decide(ask.caller, action, arn, ask.info)).allowed

    try:
        await mirror.look_for_referrers(ask.account, name, str(parse_digest(digest)), may)
    except Failure as failure:
        if failure.code in (*_OF_UPSTREAM, Code.IMAGE_NOT_FOUND):
            raise Failure(Code.UNABLE_TO_LIST_UPSTREAM_REFERRERS, failure.message, hint=failure.hint) from failure
        if failure.code is not Code.DIGEST_INVALID:  # the rows say what is wrong with it
            raise
    return await rest()


def _key(image: Mapping[str, str]) -> tuple[str | None, str | None]:
    return image.get("imageDigest"), image.get("imageTag")
