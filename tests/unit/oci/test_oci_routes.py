"""The door's frame: who asks, which route, which methods; and the table of errors."""

from __future__ import annotations

import json
import re
import time

import aiohttp
import pytest

from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal
from proxy.oci.errors import TABLE, answer
from proxy.oci.routes import ROUTES
from support.raw_http import Raw
from support.whole_registry import ACCOUNT, REGION, WholeRegistry


async def test_the_root_answers_whoever_has_a_token(http: aiohttp.ClientSession) -> None:
    for where in ("/v2/", "/v2"):
        async with http.get(where) as found:
            assert found.status == 200
            assert found.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/v2/", "/v2/a/b/tags/list", "/v2/no/such/thing", "/v2/../x"])
async def test_without_credentials_the_answer_is_ecrs_401_to_the_byte(registry: WholeRegistry, path: str) -> None:
    async with Raw(registry) as line:
        await line.send(f"GET {path} HTTP/1.1\r\nHost: {registry.address}\r\n\r\n".encode())
        status, headers, body = await line.answer()
    assert (status, body) == (401, b"Not Authorized\n")
    assert headers["content-length"] == "15"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["www-authenticate"] == f'Basic realm="http://{registry.address}/",service="ecr.amazonaws.com"'
    assert headers["docker-distribution-api-version"] == "registry/2.0"


async def test_a_host_cannot_break_out_of_the_challenge(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        await line.send(b'GET /v2/ HTTP/1.1\r\nHost: x",service="evil\r\n\r\n')
        _, headers, _ = await line.answer()
    assert headers["www-authenticate"] == 'Basic realm="http://registry/",service="ecr.amazonaws.com"'


async def test_an_expired_token_is_told_so(registry: WholeRegistry) -> None:
    principal = Principal("AIDAX", ACCOUNT, "arn:x", "x")
    registry.password, _ = registry.tokens.issue(principal, ACCOUNT, REGION, time.time() - 13 * 3600)
    async with registry.client() as http, http.get("/v2/") as found:
        assert found.status == 403
        assert await found.json() == {
            "errors": [
                {
                    "code": "DENIED",
                    "message": "Your authorization token has expired. Reauthenticate and try again.",
                    "detail": {"hint": "run aws ecr get-login-password and docker login again"},
                }
            ]
        }


async def test_two_authorization_headers_are_none(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        one = f"Authorization: {registry.authorization}\r\n"
        await line.send(f"GET /v2/ HTTP/1.1\r\nHost: x\r\n{one}{one}\r\n".encode())
        assert (await line.answer())[0] == 401


async def test_a_wrong_method_is_405_with_the_right_ones(http: aiohttp.ClientSession) -> None:
    async with http.post("/v2/a/b/tags/list") as found:
        assert (found.status, found.headers["Allow"]) == (405, "GET")
    async with http.patch("/v2/a/b/manifests/x") as found:
        assert (found.status, found.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")


async def test_an_address_that_is_none_is_404_in_the_registrys_form(http: aiohttp.ClientSession) -> None:
    for path in ("/v2/x", "/v2/a/b/unknown/list", "/v2//", "/v2/a/b/blobs/"):
        async with http.get(path) as found:
            assert found.status == 404
            assert (await found.json())["errors"][0]["code"] == "UNSUPPORTED"


async def test_the_last_keyword_of_a_path_is_the_one_that_counts(http: aiohttp.ClientSession) -> None:
    for path in ("/v2/a/blobs/b/manifests/c/tags/list", "/v2/manifests/tags/list", "/v2/a/blobs/uploads/tags/list"):
        async with http.get(path) as found:
            assert (await found.json())["errors"][0]["code"] == "NAME_UNKNOWN"


async def test_a_digest_may_come_with_its_colon_escaped(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        await line.request("GET", f"/v2/a/b/blobs/sha256%3A{'0' * 64}")
        status, _, body = await line.answer()
    assert (status, json.loads(body)["errors"][0]["code"]) == (404, "NAME_UNKNOWN")


async def test_an_absolute_target_is_the_same_address(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        await line.request("GET", f"http://{registry.address}/v2/")
        assert (await line.answer())[0] == 200


async def test_a_head_that_fails_has_no_body(registry: WholeRegistry) -> None:
    async with Raw(registry) as line:
        await line.request("HEAD", "/v2/a/b/manifests/x")
        assert (await line.head()).startswith("HTTP/1.1 404")
        await line.request("GET", "/v2/")
        assert (await line.head()).startswith("HTTP/1.1 200")


async def test_the_source_a_mirror_client_names_is_ignored(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/?ns=docker.io") as found:
        assert found.status == 200


def test_every_code_has_its_answer() -> None:
    assert set(TABLE) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_an_answer_has_the_form_of_the_spec(code: Code) -> None:
    response = answer(Failure(code, "words", hint="do this", size=5, digests=["x"], secret=object()))
    assert isinstance(response.body, bytes)
    error = json.loads(response.body)["errors"][0]
    assert re.fullmatch(r"[A-Z_]+", error["code"])
    assert error["message"] == "words"
    assert error["detail"] == {"hint": "do this", "size": 5, "digests": ["x"]}
    assert ("Retry-After" in response.headers) == (response.status in (429, 503))


def test_every_route_but_the_root_asks_for_an_action_and_names_its_endpoint() -> None:
    for route in ROUTES:
        assert route.endpoint
        assert (route.action is None) == (route.pattern == "/v2/")
        assert route.action is None or re.fullmatch(r"ecr:[A-Z][A-Za-z]+", route.action)
    assert len({(route.method, route.pattern) for route in ROUTES}) == len(ROUTES)
