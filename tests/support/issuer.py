"""A small OpenID Connect issuer: real HTTPS on loopback, under a CA of its own, with keys that can be rotated.

It shows the claims of those that real workloads bring: GitHub's and Kubernetes'. What an issuer may do wrong is done
through `paths`: a path of its own answer. `asked` lists the paths that were asked for, in order.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context

DISCOVERY = "/.well-known/openid-configuration"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def public_key(key: Key, **more: str) -> dict[str, Any]:
    """As it stands in a JWKS."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig", **more}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "use": "sig", **more}


def sign(claims: Mapping[str, Any], key: Any, algorithm: str = "RS256", **headers: Any) -> str:
    """A token with these claims and no others."""
    return jwt.encode(dict(claims), key, algorithm=algorithm, headers=headers)


def github(issuer: str, now: float, **claims: Any) -> dict[str, Any]:
    """What GitHub says of a workflow that runs for the main branch of octo-org/app."""
    return {
        "jti": "a3b1",
        "iss": issuer,
        "aud": "sts.amazonaws.com",
        "sub": "repo:octo-org/app:ref:refs/heads/main",
        "iat": int(now),
        "nbf": int(now) - 5,
        "exp": int(now) + 300,
        "repository": "octo-org/app",
        "repository_id": "74",
        "repository_owner_id": "65",
        "job_workflow_ref": "octo-org/app/.github/workflows/push.yml@refs/heads/main",
        "ref": "refs/heads/main",
        "actor": "octocat",
        "runner_environment": "github-hosted",
        **claims,
    }


def kubernetes(issuer: str, now: float, **claims: Any) -> dict[str, Any]:
    """What a cluster says of a pod of the service account `build` in the namespace `ci`."""
    return {
        "iss": issuer,
        "aud": ["sts.amazonaws.com"],
        "sub": "system:serviceaccount:ci:build",
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now) + 3600,
        "kubernetes.io": {"namespace": "ci", "pod": {"name": "build-0"}, "serviceaccount": {"name": "build"}},
        **claims,
    }


class Issuer:
    """`keys` are what it signs with, by key id; the JWKS shows them all."""

    def __init__(self, directory: Path) -> None:
        """Writes its CA and certificate there: not to be called on an event loop that must not wait."""
        self.ca, crt, key = make_self_signed(directory, "localhost")
        self._tls = server_context(crt, key)
        self.trusting = ssl.create_default_context(cafile=str(self.ca))
        self.keys: dict[str, Key] = {"one": rsa.generate_private_key(65537, 2048)}
        self.paths: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def begin(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "localhost", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"https://localhost:{self._runner.addresses[0][1]}"

    async def finish(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def token(self, key_id: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
        """One of Kubernetes' shape, of now, with `claims` in place of its own."""
        whole = kubernetes(self.url, time.time(), **claims)
        return sign(whole, self.keys[key_id], algorithm, kid=key_id)

    def rotate(self, key_id: str) -> None:
        """A new key under this id, in the place of all others."""
        self.keys = {key_id: rsa.generate_private_key(65537, 2048)}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        own = self.paths.get(request.path)
        if own is not None:
            return await own(request)
        if request.path == DISCOVERY:
            return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        if request.path == "/keys":
            return web.json_response({"keys": [public_key(key, kid=kid) for kid, key in self.keys.items()]})
        return web.Response(status=404)


def says(document: Any) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps(document), content_type="application/json")

    return answer


def status(number: int, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=number, headers=headers)

    return answer


def never() -> Answer:
    """Takes the request and says nothing."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    return answer


def endless() -> Answer:
    """White space that does not end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            await asyncio.sleep(0)  # a write that need not wait lets nobody else have a turn

    return answer
