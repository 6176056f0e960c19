"""Which actions each request of the door needs, on which ARNs; and what is answered without them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.oci.routes import ROUTES
from support.oci_requests import begin_upload, code_of, digest_of, push_blob, push_image
from support.recording_access import RecordingAccess
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

OTHER = "210987654321"
SUFFIX = "registry.example"
LAYER = b"a layer"
DIGEST = digest_of(LAYER)
TARGET, SOURCE, EVERY = (f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}" for name in ("team/app", "team/base", "*"))
PULL = ("BatchCheckLayerAvailability", "GetDownloadUrlForLayer")
UPLOAD = ("InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload")
UPLOADS = "/v2/team/app/blobs/uploads/"


@pytest.fixture
def access() -> RecordingAccess:
    return RecordingAccess()


@pytest.fixture
async def registry(tmp_path: Path, access: RecordingAccess) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, access=access, suffix=SUFFIX) as found:
        async with found.client() as http:
            await push_image(http, "team/app", "v1", [LAYER])
            await push_image(http, "team/base", "v1", [LAYER])
        yield found


@pytest.fixture
async def http(registry: WholeRegistry, access: RecordingAccess) -> AsyncIterator[aiohttp.ClientSession]:
    async with registry.client() as session:
        yield session


MANIFEST = f"/v2/team/app/manifests/{digest_of(b'')}"
TABLE = [
    ("GET", "/v2/", b"", []),
    ("HEAD", "/v2/", b"", []),
    ("GET", "/v2/team/app/manifests/v1", b"", [("BatchGetImage", TARGET)]),
    ("HEAD", "/v2/team/app/manifests/v1", b"", [("BatchGetImage", TARGET)]),
    ("PUT", "/v2/team/app/manifests/v2", b"{}", [("PutImage", TARGET), ("CreateRepository", TARGET)]),
    ("DELETE", "/v2/team/app/manifests/v1", b"", [("BatchDeleteImage", TARGET)]),
    ("DELETE", MANIFEST, b"", [("BatchDeleteImage", TARGET)]),
    ("HEAD", f"/v2/team/app/blobs/{DIGEST}", b"", [("BatchCheckLayerAvailability", TARGET)]),
    ("GET", f"/v2/team/app/blobs/{DIGEST}", b"", [("GetDownloadUrlForLayer", TARGET)]),
    ("DELETE", f"/v2/team/app/blobs/{DIGEST}", b"", [("BatchDeleteImage", TARGET)]),
    ("POST", UPLOADS, b"", [("InitiateLayerUpload", TARGET), ("CreateRepository", TARGET)]),
    (
        "POST",
        f"{UPLOADS}?digest={digest_of(b'x')}",
        b"x",
        [(action, TARGET) for action in (*UPLOAD, "CreateRepository")],
    ),
    (
        "POST",
        f"{UPLOADS}?mount={DIGEST}&from=team/base",
        b"",
        [
            *((action, TARGET) for action in UPLOAD),
            *((action, SOURCE) for action in PULL),
            ("CreateRepository", TARGET),
        ],
    ),
    (
        "POST",
        f"{UPLOADS}?mount={DIGEST}",
        b"",
        [
            *((action, TARGET) for action in UPLOAD),
            *((action, TARGET) for action in PULL),
            ("CreateRepository", TARGET),
        ],
    ),
    ("GET", "{upload}", b"", [("UploadLayerPart", TARGET)]),
    ("PATCH", "{upload}", b"x", [("UploadLayerPart", TARGET)]),
    ("PUT", f"{{upload}}?digest={digest_of(b'')}", b"", [("CompleteLayerUpload", TARGET)]),
    (
        "PUT",
        f"{{upload}}?digest={digest_of(b'x')}",
        b"x",
        [("CompleteLayerUpload", TARGET), ("UploadLayerPart", TARGET)],
    ),
    ("DELETE", "{upload}", b"", [("UploadLayerPart", TARGET)]),
    ("GET", "/v2/team/app/tags/list", b"", [("ListImages", TARGET)]),
    ("GET", f"/v2/team/app/referrers/{DIGEST}", b"", [("BatchGetImage", TARGET)]),
    ("GET", "/v2/_catalog", b"", [("DescribeRepositories", EVERY)]),
]
IDS = [f"{method} {path.replace(DIGEST, 'DIGEST')[:60]}" for method, path, _, _ in TABLE]


def test_the_table_knows_every_route() -> None:
    known = {(method, "/".join(path.partition("?")[0].split("/")[4:5])) for method, path, _, _ in TABLE}
    for route in ROUTES:
        if "uploads/<reference>" in route.pattern:
            assert any(method == route.method and path.startswith("{upload}") for method, path, _, _ in TABLE)
        elif "<name>" in route.pattern:
            assert (route.method, route.pattern.split("/")[3]) in known, route
        else:
            assert any(method == route.method and path == route.pattern for method, path, _, _ in TABLE)


@pytest.mark.parametrize(("method", "path", "content", "needs"), TABLE, ids=IDS)
async def test_a_request_asks_for_just_these_actions_on_these_arns(
    http: aiohttp.ClientSession,
    access: RecordingAccess,
    method: str,
    path: str,
    content: bytes,
    needs: list[tuple[str, str]],
) -> None:
    path = path.format(upload=await begin_upload(http, "team/app"))
    access.asked.clear()
    async with http.request(method, path, data=content or None) as answer:
        assert answer.status < 500
        assert answer.status != 403
    assert access.asked == [(f"ecr:{action}", arn) for action, arn in needs]


DENIALS = [
    (method, path, content, action)
    for method, path, content, needs in TABLE
    if "mount=" not in path
    for action, _ in needs
    if action != "CreateRepository"
]


@pytest.mark.parametrize(("method", "path", "content", "action"), DENIALS)
async def test_without_one_of_them_the_answer_is_403_with_the_evaluators_sentence(
    http: aiohttp.ClientSession, access: RecordingAccess, method: str, path: str, content: bytes, action: str
) -> None:
    path = path.format(upload=await begin_upload(http, "team/app"))
    access.denied = {f"ecr:{action}"}
    async with http.request(method, path, data=content or None) as answer:
        assert answer.status == 403
        if method != "HEAD":
            error = (await answer.json())["errors"][0]
            assert error["code"] == "DENIED"
            assert error["message"].startswith(f"denied: ecr:{action} on arn:aws:ecr:")


# ---- mounts -------------------------------------------------------------------------------------------------------


async def mount(http: aiohttp.ClientSession, repository: str, source: str | None = None) -> int:
    query = {"mount": DIGEST} | ({"from": source} if source else {})
    async with http.post(f"/v2/{repository}/blobs/uploads/", params=query) as answer:
        return answer.status


@pytest.mark.parametrize("action", PULL)
async def test_a_mount_from_where_the_caller_may_not_pull_is_an_upload(
    http: aiohttp.ClientSession, access: RecordingAccess, action: str
) -> None:
    assert await mount(http, "team/new", "team/base") == 201
    access.denied = {(f"ecr:{action}", SOURCE)}
    assert await mount(http, "team/newer", "team/base") == 202


async def test_a_mount_without_a_source_finds_one_that_the_caller_may_pull_from(
    http: aiohttp.ClientSession, access: RecordingAccess
) -> None:
    access.denied = {("ecr:GetDownloadUrlForLayer", TARGET)}
    assert await mount(http, "team/new") == 201
    access.denied.add(("ecr:GetDownloadUrlForLayer", SOURCE))
    access.denied.add(("ecr:GetDownloadUrlForLayer", TARGET.replace("app", "new")))
    assert await mount(http, "team/newer") == 202


async def test_a_mount_without_a_source_looks_at_twenty_repositories_at_most(
    http: aiohttp.ClientSession, access: RecordingAccess
) -> None:
    for number in range(20):
        assert await mount(http, f"a/{number:02}", "team/base") == 201
    access.denied = {"ecr:BatchCheckLayerAvailability"}
    access.asked.clear()
    assert await mount(http, "team/new") == 202
    assert sum(action == "ecr:BatchCheckLayerAvailability" for action, _ in access.asked) == 20


async def test_a_mount_is_an_upload_while_the_account_has_mounting_off(
    http: aiohttp.ClientSession, registry: WholeRegistry
) -> None:
    for value, status in (("DISABLED", 202), ("ENABLED", 201)):
        await registry.metadata.call(ACCOUNT, "PutAccountSetting", {"name": "BLOB_MOUNTING", "value": value})
        assert await mount(http, "team/new", "team/base") == status


# ---- pushes that create -------------------------------------------------------------------------------------------


async def test_a_push_to_a_repository_that_it_may_not_create_finds_none(
    http: aiohttp.ClientSession, access: RecordingAccess
) -> None:
    access.denied = {"ecr:CreateRepository"}
    for method, path in (
        ("POST", "/v2/team/new/blobs/uploads/"),
        ("POST", f"/v2/team/new/blobs/uploads/?mount={DIGEST}&from=team/base"),
        ("POST", f"/v2/team/new/blobs/uploads/?digest={DIGEST}"),
        ("PUT", "/v2/team/new/manifests/v1"),
    ):
        async with http.request(method, path, data=LAYER) as answer:
            assert (answer.status, await code_of(answer)) == (404, "NAME_UNKNOWN") or method == "PUT"
            assert answer.status in (400, 404)
    assert await push_blob(http, "team/app", b"of one that is there")


# ---- hosts --------------------------------------------------------------------------------------------------------


async def test_the_host_says_whose_registry_is_asked(http: aiohttp.ClientSession, access: RecordingAccess) -> None:
    host = {"Host": f"{OTHER}.dkr.ecr.{REGION}.{SUFFIX}"}
    access.asked.clear()
    async with http.get("/v2/team/app/manifests/v1", headers=host) as answer:
        assert answer.status == 404
        assert f"in the registry with id '{OTHER}'" in (await answer.json())["errors"][0]["message"]
    assert access.asked == [("ecr:BatchGetImage", TARGET.replace(ACCOUNT, OTHER))]


async def test_the_host_of_another_region_is_refused_in_words(http: aiohttp.ClientSession) -> None:
    host = {"Host": f"{ACCOUNT}.dkr.ecr.eu-west-1.{SUFFIX}"}
    async with http.get("/v2/team/app/manifests/v1", headers=host) as answer:
        assert answer.status == 400
        assert "of the region us-east-1, not of eu-west-1" in await answer.text()


async def test_the_challenge_names_the_host_that_was_asked(registry: WholeRegistry) -> None:
    host = {"Host": f"{OTHER}.dkr.ecr.{REGION}.{SUFFIX}"}
    async with aiohttp.ClientSession(registry.url) as http, http.get("/v2/", headers=host) as answer:
        assert f'realm="http://{host["Host"]}/"' in answer.headers["Www-Authenticate"]


# ---- facts --------------------------------------------------------------------------------------------------------


async def test_policies_learn_where_a_request_came_from_and_by_what_and_no_forged_header_changes_it(
    http: aiohttp.ClientSession, access: RecordingAccess
) -> None:
    forged = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https", "User-Agent": "docker/29"}
    async with http.get("/v2/team/app/tags/list", headers=forged):
        pass
    info = access.info[-1]
    assert (info.source_ip, info.secure, info.user_agent, info.region) == ("127.0.0.1", False, "docker/29", REGION)
