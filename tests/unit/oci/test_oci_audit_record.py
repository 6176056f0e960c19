"""What the audit trail is told of requests at docker's door."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.audit.events import AuditEvent
from proxy.model.errors import Code, Failure
from proxy.registry.upload_ids import upload_name
from support.oci_requests import OCI_IMAGE, OCI_INDEX, begin_upload, body, digest_of, image, push_blob, push_image
from support.recording_access import RecordingAccess
from support.recording_trail import RecordingTrail
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

LAYER = b"a layer"
DIGEST = digest_of(LAYER)
APP, BASE = (f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}" for name in ("team/app", "team/base"))
UPLOADS = "/v2/team/app/blobs/uploads/"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/administrator"


@pytest.fixture
def trail() -> RecordingTrail:
    return RecordingTrail()


@pytest.fixture
def access() -> RecordingAccess:
    return RecordingAccess()


@pytest.fixture
async def registry(tmp_path: Path, trail: RecordingTrail, access: RecordingAccess) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, trail=trail, access=access) as found:
        async with found.client() as http:
            await push_image(http, "team/app", "v1", [LAYER])
            await push_image(http, "team/base", "v1", [LAYER])
        yield found


@pytest.fixture
async def http(registry: WholeRegistry, trail: RecordingTrail) -> AsyncIterator[aiohttp.ClientSession]:
    async with registry.client() as session:
        yield session


MANIFEST = image([LAYER])
GIVEN = {"registryId": ACCOUNT, "repositoryName": "team/app"}
TABLE: list[tuple[str, str, bytes, str, dict[str, Any], tuple[int, int]]] = [
    ("GET", "manifests/v1", b"", "BatchGetImage", {"imageIds": [{"imageTag": "v1"}]}, (0, len(MANIFEST))),
    ("HEAD", "manifests/v1", b"", "BatchGetImage", {"imageIds": [{"imageTag": "v1"}]}, (0, 0)),
    ("DELETE", "manifests/v1", b"", "BatchDeleteImage", {"imageIds": [{"imageTag": "v1"}]}, (0, 0)),
    ("PUT", "manifests/v2?tag=v3", MANIFEST, "PutImage", {"imageTag": "v2", "imageTags": ["v3"]}, (len(MANIFEST), 0)),
    ("HEAD", f"blobs/{DIGEST}", b"", "BatchCheckLayerAvailability", {"layerDigests": [DIGEST]}, (0, 0)),
    ("GET", f"blobs/{DIGEST}", b"", "GetDownloadUrlForLayer", {"layerDigest": DIGEST}, (0, len(LAYER))),
    ("POST", "blobs/uploads/", b"", "InitiateLayerUpload", {}, (0, 0)),
    (
        "POST",
        f"blobs/uploads/?digest={digest_of(b'xy')}",
        b"xy",
        "InitiateLayerUpload",
        {"layerDigest": digest_of(b"xy")},
        (2, 0),
    ),
    ("PATCH", "{upload}", b"xyz", "UploadLayerPart", {"uploadId": "{id}"}, (3, 0)),
    (
        "PUT",
        f"{{upload}}?digest={digest_of(b'xyz')}",
        b"xyz",
        "CompleteLayerUpload",
        {"uploadId": "{id}", "layerDigests": [digest_of(b"xyz")]},
        (3, 0),
    ),
    ("GET", "{upload}", b"", "UploadLayerPart", {"uploadId": "{id}"}, (0, 0)),
    ("DELETE", "{upload}", b"", "UploadLayerPart", {"uploadId": "{id}"}, (0, 0)),
    ("GET", "tags/list", b"", "ListImages", {}, (0, 0)),
    ("GET", f"referrers/{DIGEST}", b"", "BatchGetImage", {"imageIds": [{"imageDigest": DIGEST}]}, (0, 0)),
]


@pytest.mark.parametrize(
    ("method", "path", "content", "name", "parameters", "moved"),
    TABLE,
    ids=[f"{method} {path.replace(DIGEST, 'DIGEST')[:40]}" for method, path, *_ in TABLE],
)
async def test_a_request_is_one_event_of_the_operation_it_stands_for(
    registry: WholeRegistry,
    http: aiohttp.ClientSession,
    trail: RecordingTrail,
    method: str,
    path: str,
    content: bytes,
    name: str,
    parameters: dict[str, Any],
    moved: tuple[int, int],
) -> None:
    upload = await begin_upload(http, "team/app")
    trail.received.clear()
    trail.durable.clear()
    where = path.format(upload=upload) if path.startswith("{") else f"/v2/team/app/{path}"
    headers = {"Content-Type": OCI_IMAGE} if "manifests" in path else {}
    async with http.request(method, where, data=body(content) if content else None, headers=headers) as answer:
        assert answer.status < 300, await answer.text()
        status = answer.status
        await answer.read()
    await registry.quiet()
    [event] = trail.events
    upload_id = upload_name(upload.rpartition("/")[2])  # one for all requests of a session
    wanted = {key: value.format(id=upload_id) if isinstance(value, str) else value for key, value in parameters.items()}
    assert (event["eventSource"], event["eventName"]) == ("ecr.amazonaws.com", name)
    assert event["requestParameters"] == GIVEN | wanted
    assert event["resources"] == [{"ARN": APP, "accountId": ACCOUNT, "type": "AWS::ECR::Repository"}]
    assert event["userIdentity"]["arn"] == ADMINISTRATOR
    assert event["sourceIPAddress"] == "127.0.0.1"
    assert "errorCode" not in event
    more = event["additionalEventData"]
    assert (more.get("bytesTransferredIn", 0), more.get("bytesTransferredOut", 0)) == moved
    assert (more["route"].split()[0], more["status"]) == (method, status)
    reads = method in ("GET", "HEAD")
    assert event["readOnly"] is reads
    assert trail.durable == ([] if reads else trail.received)  # a write's is with the kernel before its answer


async def test_a_mount_tells_where_the_blob_came_from(http: aiohttp.ClientSession, trail: RecordingTrail) -> None:
    trail.received.clear()
    async with http.post(f"{UPLOADS}?mount={DIGEST}&from=team/base") as answer:
        assert answer.status == 201
    [event] = trail.events
    assert [each["ARN"] for each in event["resources"]] == [APP, BASE]
    assert event["requestParameters"]["layerDigest"] == DIGEST


async def test_a_refusal_and_what_is_not_there_carry_the_apis_names(
    http: aiohttp.ClientSession, trail: RecordingTrail, access: RecordingAccess
) -> None:
    trail.received.clear()
    for path in ("manifests/none", f"blobs/{digest_of(b'none')}"):
        async with http.get(f"/v2/team/app/{path}") as answer:
            assert answer.status == 404
    access.denied.add(("ecr:PutImage", APP))
    async with http.put("/v2/team/app/manifests/v1", data=MANIFEST, headers={"Content-Type": OCI_IMAGE}) as answer:
        assert answer.status == 403
    told = [(event["eventName"], event["errorCode"]) for event in trail.events]
    assert told == [
        ("BatchGetImage", "ImageNotFoundException"),
        ("GetDownloadUrlForLayer", "LayersNotFoundException"),
        ("PutImage", "AccessDenied"),
    ]
    assert trail.events[2]["errorMessage"] == f"denied: ecr:PutImage on {APP}"


@pytest.mark.parametrize(
    ("path", "password", "name"),
    [
        ("/v2/", "", None),  # every client begins so
        ("/v2/", "wrong-password-marker", "Authenticate"),
        ("/v2/team/app/manifests/v1", "", "BatchGetImage"),
        ("/v2/team/app/manifests/v1", "wrong-password-marker", "BatchGetImage"),
        ("/v2/no/such/path", "", None),
    ],
)
async def test_whom_nobody_knows_is_told_of_where_they_asked_for_something_or_showed_a_password(
    registry: WholeRegistry, trail: RecordingTrail, path: str, password: str, name: str | None
) -> None:
    trail.received.clear()
    trail.durable.clear()
    shown = {"Authorization": "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()} if password else {}
    async with aiohttp.ClientSession(registry.url, headers=shown) as nobody, nobody.get(path) as answer:
        assert answer.status == 401
    told = [(event["eventName"], event["errorCode"], event["userIdentity"]) for event in trail.events]
    assert told == ([] if name is None else [(name, "Unauthorized", {"type": "Unknown"})])
    assert "marker" not in trail.text
    assert trail.durable == []


async def test_a_good_password_without_a_question_is_no_event(
    http: aiohttp.ClientSession, trail: RecordingTrail
) -> None:
    trail.received.clear()
    for path, status in (("/v2/", 200), ("/v2/team/app/nothing", 404)):
        async with http.get(path) as answer:
            assert answer.status == status
    assert trail.received == []


async def test_a_pull_that_was_cut_tells_how_far_it_came(registry: WholeRegistry, trail: RecordingTrail) -> None:
    async with registry.client() as http:
        digest = await push_blob(http, "team/app", bytes(64 << 20))
        trail.received.clear()
        async with http.get(f"/v2/team/app/blobs/{digest}") as answer:
            await answer.content.readexactly(1 << 20)
            answer.close()
    await registry.quiet()
    [event] = trail.events
    assert event["errorCode"] == "RequestCut"
    assert 1 << 20 <= event["additionalEventData"]["bytesTransferredOut"] < 64 << 20


async def test_a_bug_of_ours_is_an_event_too(
    registry: WholeRegistry, http: aiohttp.ClientSession, trail: RecordingTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(registry.images, "resolve", broken)
    trail.received.clear()
    async with http.get("/v2/team/app/manifests/v1") as answer:
        assert answer.status == 500
    [event] = trail.events
    assert (event["errorCode"], event["additionalEventData"]["status"]) == ("InternalFailure", 500)


async def test_a_trail_that_waits_holds_a_writes_answer(tmp_path: Path) -> None:
    """A write is acknowledged when its event is on record, not before."""
    slow = _HeldTrail()
    async with whole_registry(tmp_path, trail=slow) as registry, registry.client() as http:
        asking = http.post(UPLOADS)

        task = asyncio.ensure_future(asking.__aenter__())
        await asyncio.wait_for(slow.asked.wait(), 10)
        assert not task.done()
        slow.release.set()
        answer = await asyncio.wait_for(task, 10)
        assert answer.status == 202
        answer.close()


class _HeldTrail:
    def __init__(self) -> None:

        self.asked = asyncio.Event()
        self.release = asyncio.Event()

    async def record(self, event: AuditEvent) -> None:
        self.asked.set()
        await self.release.wait()

    async def note(self, event: AuditEvent) -> None:
        raise AssertionError("a write is recorded")

    async def require(self) -> None:
        pass

    async def check(self) -> str | None:
        return None

    def try_enqueue(self, event: AuditEvent) -> bool:
        raise AssertionError("a write is recorded")


@pytest.mark.parametrize("how", ["POST blobs/uploads/", "PUT manifests/v1", f"POST blobs/uploads/?mount={DIGEST}"])
async def test_a_push_that_makes_its_repository_is_an_event_of_that_too(
    http: aiohttp.ClientSession, registry: WholeRegistry, trail: RecordingTrail, how: str
) -> None:
    await registry.metadata.call(
        ACCOUNT, "CreateRepositoryCreationTemplate", {"prefix": "new", "appliedFor": ["CREATE_ON_PUSH"]}
    )
    method, path = how.split()
    content = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode() if method == "PUT" else None
    trail.received.clear()
    trail.durable.clear()
    headers = {"Content-Type": OCI_INDEX}
    for _ in range(2):  # which the second time is there
        async with http.request(method, f"/v2/new/app/{path}", data=content, headers=headers) as answer:
            assert answer.status in (201, 202), await answer.text()
    made, *pushes = trail.events
    assert made["eventName"] == "CreateRepository"
    assert made["requestParameters"] == {"registryId": ACCOUNT, "repositoryName": "new/app"}
    assert [each["ARN"] for each in made["resources"]] == [APP.replace("team/app", "new/app")]
    assert made["userIdentity"]["arn"] == ADMINISTRATOR
    assert made["managementEvent"] is True
    assert made["readOnly"] is False
    assert "errorCode" not in made
    assert made["requestID"] == pushes[0]["requestID"]
    assert [each["eventName"] for each in pushes] == ["PutImage" if content else "InitiateLayerUpload"] * 2
    assert trail.durable == trail.received


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
async def test_while_the_log_cannot_be_written_writes_are_503_and_reads_go_on(
    http: aiohttp.ClientSession,
    trail: RecordingTrail,
    row: tuple[str, str, bytes, str, dict[str, Any], tuple[int, int]],
) -> None:
    method, path, content = row[:3]
    upload = await begin_upload(http, "team/app") if "{upload}" in path else ""
    address = path.format(upload=upload) if upload else f"/v2/team/app/{path}"
    before = trail.required
    trail.fails = Failure(Code.STORE_UNAVAILABLE, "the audit log cannot be written")
    headers = {"Content-Type": OCI_IMAGE} if method == "PUT" and content == MANIFEST else {}
    async with http.request(method, address, data=content or None, headers=headers) as answer:
        if method in ("GET", "HEAD"):
            assert answer.status in (200, 204)
        else:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert (await answer.json())["errors"][0]["code"] == "UNAVAILABLE"
    assert trail.required - before == (method not in ("GET", "HEAD"))
