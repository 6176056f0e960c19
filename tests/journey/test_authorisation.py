"""Authorisation is complete: whoever lacks one action that a request needs is denied and changes nothing.

For every operation of the APIs and every route of docker's door, taken from their own tables: without any policy, and
with everything allowed but one of its actions, the caller is denied and every row stays as it was; with just its
actions it succeeds. What a table gains without an example here fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from proxy.ecr.iam.actions import ACTIONS
from proxy.ecr.routes import ROUTES as ECR_ROUTES
from proxy.ecr.sts import SERVED
from proxy.oci.routes import ROUTES as OCI_ROUTES
from support.examples import ACCOUNT, ECR, REGION, REPOSITORY, STS, Example, allow, settle
from support.examples_iam import IAM
from support.memory_connection import Answer
from support.oci_requests import EMPTY_CONFIG, OCI_IMAGE, digest_of, image
from support.registry_client import LAYER, NOBODY, RegistryClient, push, registry_client

SERVICES: Mapping[str, Sequence[Example]] = {"ecr": ECR, "sts": STS, "iam": IAM}


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        yield found


def test_every_operation_that_is_served_has_an_example() -> None:
    assert {each.operation for each in ECR} == set(ECR_ROUTES)
    assert {each.operation for each in STS} == set(SERVED)
    assert {each.operation for each in IAM} == set(ACTIONS)
    assert {(each.method, each.pattern) for each in OCI_ROUTES} == {(each.method, each.pattern) for each in DOCKER}


# ---- the APIs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_an_operation_is_denied_and_changes_nothing_unless_each_of_its_actions_is_allowed(
    doors: RegistryClient, service: str
) -> None:
    wrong = []
    for example in SERVICES[service]:
        await settle(doors.registry.metadata, example.before)
        ask = partial(_asked, doors, example)
        wrong += await _wrong_with(doors, example.operation, example.actions, ask, _is_denied)
        answer = await _asked(doors, example)
        if (answer.status == 200) != (not example.error) or example.error not in answer.body.decode():
            wrong.append(f"{example.operation} with {example.actions}: {answer.status} {answer.body[:300]!r}")
        await _forbid(doors)
    assert wrong == []


async def test_who_one_is_may_be_asked_by_all_even_where_everything_is_denied(doors: RegistryClient) -> None:
    await doors.permit({"Effect": "Deny", "Action": "*", "Resource": "*"})
    for example in STS:
        if example.free and not example.error:
            assert (await _asked(doors, example)).status == 200, example


async def _asked(doors: RegistryClient, example: Example) -> Answer:
    who = None if example.operation == "AssumeRoleWithWebIdentity" else doors.keys[NOBODY]
    return await doors.ask(example.service, example.operation, example.parameters, who)


def _is_denied(answer: Answer) -> bool:
    return answer.status == 403 and (b'"AccessDeniedException"' in answer.body or b"<Code>AccessDenied<" in answer.body)


# ---- docker's door ------------------------------------------------------------------------------------------------

Prepared = tuple[str, bytes]
"""What is filled into a target, and the body."""


async def _nothing(doors: RegistryClient) -> Prepared:
    return "", b""


async def _an_upload(doors: RegistryClient) -> Prepared:
    answer = await doors.docker("POST", f"/v2/{REPOSITORY}/blobs/uploads/", doors.registry.password)
    return answer.headers["location"], b"x"


async def _a_tag(doors: RegistryClient) -> Prepared:
    await push(doors, REPOSITORY, "gone", [LAYER])
    return "gone", b""


async def _a_blob(doors: RegistryClient) -> Prepared:
    target = f"/v2/{REPOSITORY}/blobs/uploads/?digest={digest_of(b'unused')}"
    assert (await doors.docker("POST", target, doors.registry.password, b"unused")).status == 201
    return digest_of(b"unused"), b""


async def _a_manifest(doors: RegistryClient) -> Prepared:
    return "v3", image([LAYER], annotations={"for": "v3"})


async def _content(doors: RegistryClient) -> Prepared:
    return digest_of(b"pushed"), b"pushed"


@dataclass(frozen=True, slots=True)
class Docker:
    """A request for a route. `target` has a place for what `prepare` made; the body is sent where `sends`. `hidden`
    are actions whose lack is told as a repository that is not there."""

    method: str
    pattern: str
    target: str
    actions: Sequence[str]
    status: int
    prepare: Callable[[RegistryClient], Awaitable[Prepared]] = _nothing
    sends: bool = False
    hidden: Sequence[str] = ()


_BLOB, _UPLOAD, _MANIFEST = (f"/v2/<name>/{each}<reference>" for each in ("blobs/", "blobs/uploads/", "manifests/"))
_APP = f"/v2/{REPOSITORY}"
_BEGIN = "/v2/<name>/blobs/uploads/"
_PULL = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer")
_UPLOAD_RIGHTS = ("ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload")

DOCKER: Sequence[Docker] = (
    Docker("GET", "/v2/", "/v2/", (), 200),
    Docker("HEAD", "/v2/", "/v2/", (), 200),
    Docker("HEAD", _BLOB, f"{_APP}/blobs/{digest_of(LAYER)}", ("ecr:BatchCheckLayerAvailability",), 200),
    Docker("GET", _BLOB, f"{_APP}/blobs/{digest_of(LAYER)}", ("ecr:GetDownloadUrlForLayer",), 200),
    Docker("DELETE", _BLOB, _APP + "/blobs/{}", ("ecr:BatchDeleteImage",), 202, _a_blob),
    Docker("HEAD", _MANIFEST, f"{_APP}/manifests/v1", ("ecr:BatchGetImage",), 200),
    Docker("GET", _MANIFEST, f"{_APP}/manifests/v1", ("ecr:BatchGetImage",), 200),
    Docker("PUT", _MANIFEST, _APP + "/manifests/{}", ("ecr:PutImage",), 201, _a_manifest, True),
    Docker("DELETE", _MANIFEST, _APP + "/manifests/{}", ("ecr:BatchDeleteImage",), 202, _a_tag),
    Docker("POST", _BEGIN, f"{_APP}/blobs/uploads/", ("ecr:InitiateLayerUpload",), 202),
    Docker(
        "POST",
        _BEGIN,
        _APP + "/blobs/uploads/?digest={}",
        ("ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"),
        201,
        _content,
        True,
    ),
    Docker(
        "POST",
        _BEGIN,
        "/v2/made/by-push/blobs/uploads/",
        ("ecr:InitiateLayerUpload",),
        202,
        hidden=("ecr:CreateRepository",),
    ),
    Docker("PATCH", _UPLOAD, "{}", ("ecr:UploadLayerPart",), 202, _an_upload, True),
    Docker("PUT", _UPLOAD, "{}?digest=" + digest_of(b""), ("ecr:CompleteLayerUpload",), 201, _an_upload),
    Docker(
        "PUT",
        _UPLOAD,
        "{}?digest=" + digest_of(b"x"),
        ("ecr:CompleteLayerUpload", "ecr:UploadLayerPart"),
        201,
        _an_upload,
        True,
    ),
    Docker("GET", _UPLOAD, "{}", ("ecr:UploadLayerPart",), 204, _an_upload),
    Docker("DELETE", _UPLOAD, "{}", ("ecr:UploadLayerPart",), 204, _an_upload),
    Docker("GET", "/v2/<name>/tags/list", f"{_APP}/tags/list", ("ecr:ListImages",), 200),
    Docker(
        "GET",
        "/v2/<name>/referrers/<reference>",
        f"{_APP}/referrers/{digest_of(EMPTY_CONFIG)}",
        ("ecr:BatchGetImage",),
        200,
    ),
    Docker("GET", "/v2/_catalog", "/v2/_catalog", ("ecr:DescribeRepositories",), 200),
)


async def test_a_docker_request_is_denied_and_changes_nothing_unless_each_of_its_actions_is_allowed(
    doors: RegistryClient,
) -> None:
    password = await _password_of_nobody(doors)
    wrong = []
    for request in DOCKER:
        filled, body = await request.prepare(doors)
        target, content = request.target.format(filled), body if request.sends else b""

        async def ask(request: Docker = request, target: str = target, content: bytes = content) -> Answer:
            typed = [("Content-Type", OCI_IMAGE)] if request.pattern == _MANIFEST else []
            return await doors.docker(request.method, target, password, content, typed)

        name = f"{request.method} {request.target}"
        wrong += await _wrong_with(
            doors, name, [*request.actions, *request.hidden], ask, _is_refused, hidden=request.hidden
        )
        answer = await ask()
        if answer.status != request.status:
            wrong.append(f"{name} with {request.actions}: {answer.status} {answer.body[:300]!r}")
        await _forbid(doors)
    assert wrong == []


@pytest.mark.parametrize("missing", _PULL)
async def test_a_mount_without_the_right_to_pull_links_nothing(doors: RegistryClient, missing: str) -> None:
    password = await _password_of_nobody(doors)
    await settle(doors.registry.metadata, [("ecr", "CreateRepository", {"repositoryName": "into/this"})])
    target = f"/v2/into/this/blobs/uploads/?mount={digest_of(LAYER)}&from={REPOSITORY}"
    await doors.permit({"Effect": "Allow", "NotAction": missing, "Resource": "*"})
    before = await doors.rows()
    assert (await doors.docker("POST", target, password)).status == 202
    assert (await doors.rows())["blob_links"] == before["blob_links"]
    await doors.permit(allow([*_UPLOAD_RIGHTS, *_PULL], Resource="*"))
    assert (await doors.docker("POST", target, password)).status == 201


@pytest.mark.parametrize("missing", _UPLOAD_RIGHTS)
async def test_a_mount_without_the_right_to_upload_is_denied_and_links_nothing(
    doors: RegistryClient, missing: str
) -> None:
    """Whether the blob could be mounted or not: what an upload needs on the target, a mount needs there too."""
    password = await _password_of_nobody(doors)
    await settle(doors.registry.metadata, [("ecr", "CreateRepository", {"repositoryName": "into/this"})])
    source = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{REPOSITORY}"
    await doors.permit(
        allow([each for each in _UPLOAD_RIGHTS if each != missing], Resource="*"), allow(list(_PULL), Resource=source)
    )
    before = await doors.rows()
    for digest in (digest_of(LAYER), digest_of(b"nowhere")):
        for origin in ("", f"&from={REPOSITORY}"):
            answer = await doors.docker("POST", f"/v2/into/this/blobs/uploads/?mount={digest}{origin}", password)
            assert _is_refused(answer), answer
            assert missing in answer.body.decode()
    assert await doors.rows() == before


def _is_refused(answer: Answer) -> bool:
    if answer.status == 404:
        return not answer.body or b"NAME_UNKNOWN" in answer.body
    return answer.status == 403 and (not answer.body or json.loads(answer.body)["errors"][0]["code"] == "DENIED")


async def _password_of_nobody(doors: RegistryClient) -> str:
    metadata = doors.registry.metadata
    user = (await metadata.iam(ACCOUNT, "GetUser", {"UserName": NOBODY}))["User"]
    principal = await metadata.principal(user["UserId"])
    password: str = doors.registry.tokens.issue(principal, ACCOUNT, REGION, time.time())[0]
    return password


# ---- both ---------------------------------------------------------------------------------------------------------


async def _wrong_with(
    doors: RegistryClient,
    name: str,
    actions: Sequence[str],
    ask: Callable[[], Awaitable[Answer]],
    is_denied: Callable[[Answer], bool],
    hidden: Sequence[str] = (),
) -> list[str]:
    """What is wrong where something is missing. In the end the caller has just `actions`."""
    wrong = []
    for missing in ["", *actions] if actions else []:
        await (doors.permit({"Effect": "Allow", "NotAction": missing, "Resource": "*"}) if missing else _forbid(doors))
        before = await doors.rows()
        answer = await ask()
        if not is_denied(answer) or answer.status != (404 if missing in hidden else 403):
            wrong.append(f"{name} without {missing or 'any policy'}: {answer.status} {answer.body[:300]!r}")
        after = await doors.rows()
        wrong += [f"{name} without {missing}: {table} changed" for table in before if before[table] != after[table]]
    if actions:
        await doors.permit(allow(list(actions), Resource="*"))
    return wrong


async def _forbid(doors: RegistryClient) -> None:
    """Take from the caller whatever it was given."""
    if (await doors.registry.metadata.iam(ACCOUNT, "ListUserPolicies", {"UserName": NOBODY}))["PolicyNames"]:
        await doors.permit()
