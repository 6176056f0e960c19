"""The AWS services that are served, and which of them a request is for. Called by `routes` and `query`.

    X-Amz-Target                   its service, JSON 1.1: secretsmanager, events, or ecr
    else the signature's scope     ecr, sts or iam, by its service
    else Version in the query      the service whose version it is: nothing is signed, as AssumeRoleWithWebIdentity
    else a form, a GET, an Action  sts
    else                           ecr

The choice depends on the head of a request only, and authenticates nothing: it decides the form of the response, and
what a signature must have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote_plus

from aiohttp import web

from proxy.awsmodel.models import VERSIONS
from proxy.model.manifests import MANIFEST_MAX

FORM_MAX = 512 * 1024  # a policy has at most 131,072 characters, each of which a form may write as three
JSON_MAX = 1024 * 1024  # most of the operations that are read whole take no more: 100 image ids are some 30 KiB
MANIFEST_JSON_MAX = 3 * MANIFEST_MAX + JSON_MAX  # PutImage: JSON's escapes make six bytes of two, at worst


@dataclass(frozen=True, slots=True)
class ApiService:
    """What a service requires of a signature. `regions` may be in the scope, beside the registry's own.

    `required` headers must be signed. `skew_minutes` is how far off a signature's date may be, either way.
    `presigned_seconds`: how long a pre-signed query is valid, whatever it says itself; None: as long as it says.
    """

    name: str
    required: Sequence[str]
    skew_minutes: int
    body_max: int
    regions: Sequence[str] = ()
    presigned_seconds: int | None = None


ECR = ApiService("ecr", ("host", "x-amz-date", "x-amz-target"), skew_minutes=5, body_max=JSON_MAX)
WITH_MANIFEST = replace(ECR, body_max=MANIFEST_JSON_MAX)

# SDKs that use the global endpoints sign for us-east-1 in every region.
STS = ApiService(
    "sts",
    ("host", "x-amz-date"),
    skew_minutes=15,
    body_max=FORM_MAX,
    regions=("us-east-1",),
    presigned_seconds=900,
)
IAM = ApiService("iam", ("host", "x-amz-date"), skew_minutes=5, body_max=FORM_MAX, regions=("us-east-1",))

SECRETS_MANAGER = ApiService(
    "secretsmanager", ("host", "x-amz-date", "x-amz-target"), skew_minutes=5, body_max=JSON_MAX
)

EVENTS = ApiService("events", ("host", "x-amz-date", "x-amz-target"), skew_minutes=5, body_max=JSON_MAX)

TARGETS = {"secretsmanager": SECRETS_MANAGER, "AWSEvents": EVENTS}
"""Services beside ecr, by the part of X-Amz-Target before the dot."""

SERVICES = {service.name: service for service in (ECR, STS, IAM)}

_SCOPE = re.compile(r"Credential=[^/,&\s]{1,128}/[0-9]{8}/[\w-]{1,64}/(ecr|sts|iam)/", re.ASCII)
_ACTION = re.compile(r"(?:^|&)Action=")
_VERSION = re.compile(r"(?:^|&)Version=([0-9-]{10})(?:&|$)", re.ASCII)


def service_of(request: web.Request) -> ApiService:
    """The service of a request, by its head."""
    if "X-Amz-Target" in request.headers:
        return TARGETS.get(request.headers["X-Amz-Target"].partition(".")[0], ECR)
    query = request.raw_path.partition("?")[2]
    scope = _SCOPE.search(request.headers.get("Authorization", "")) or _SCOPE.search(unquote_plus(query))
    if scope is not None:
        return SERVICES[scope[1]]
    version = _VERSION.search(query)
    if version is not None:
        for name, known in VERSIONS.items():
            if known == version[1] and name in SERVICES:
                return SERVICES[name]
    is_form = request.content_type == "application/x-www-form-urlencoded"
    return STS if is_form or request.method == "GET" or _ACTION.search(query) else ECR


def speaks_json(service: ApiService) -> bool:
    """JSON 1.1, or the query protocol."""
    return service.name not in (STS.name, IAM.name)


def has_large_body(request: web.Request, service: ApiService) -> bool:
    """Whether the body may be larger than `JSON_MAX`."""
    length = request.content_length
    return service.body_max > JSON_MAX and (length is None or length > JSON_MAX)
