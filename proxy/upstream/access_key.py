"""Logs in at another Wharfage, or ECR, with an access key: a password by a signed GetAuthorizationToken.

The secret key is never sent, only a signature of it; the password is sent to the registry's own origin. It is cached
for `CACHED_SECONDS` of the twelve hours that it is valid, or until the registry refuses it; concurrent requests share
one fetch.
Nothing here is ever logged or reported. Used by `client` and `peer`.
Source: botocore's `ecr` model, GetAuthorizationToken.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from proxy.upstream.challenge import Scopes
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
BODY = b"{}"
CACHED_SECONDS = 6 * 3600.0
_DENIED = ("AccessDenied", "UnrecognizedClient", "InvalidSignature", "IncompleteSignature", "InvalidClientTokenId")
_TOKEN = re.compile(r"[A-Za-z0-9+/=]{1,16384}", re.ASCII)

Send = Callable[[Callable[[str], Mapping[str, str]]], Awaitable[tuple[int, bytes]]]
"""POST of `BODY` to the registry's `/`; the argument returns the headers for its URL, and may block. The answer's
status and body, bounded."""


class AccessKeyAuthorizer:
    """Makes the Authorization of requests to one registry, in the place of `challenge.RegistryAuthorizer`."""

    realm = ""  # there is none

    def __init__(
        self, access_key_id: str, secret_access_key: str, region: str, send: Send, clock: Callable[[], float]
    ) -> None:
        self._sign = lambda url: _signed_headers(access_key_id, secret_access_key, region, url)
        self._send = send
        self._clock = clock
        self._header = ""
        self._until = 0.0
        self._fetching = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<AccessKeyAuthorizer, {'with' if self._header else 'without'} a password>"

    async def header(self, scopes: Scopes) -> str:
        """The value of Authorization, whatever the scopes. `UpstreamFailed` if no password is issued."""
        async with self._fetching:
            if not self._header or self._until <= self._clock():
                token = _issued_token(*await self._send(self._sign))
                self._header, self._until = f"Basic {token}", self._clock() + CACHED_SECONDS
            return self._header

    async def learn(self, challenges: Sequence[str], sent: str, scopes: Scopes) -> bool:
        """Drop the password that a 401 refused. True: a retry gets another one."""
        if sent == self._header:
            self._header = ""
        return True


def _signed_headers(access_key_id: str, secret_access_key: str, region: str, url: str) -> dict[str, str]:
    """The headers of GetAuthorizationToken. To be run in a thread, because the first call loads botocore."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET}
    request = AWSRequest(method="POST", url=url, data=BODY, headers=headers)
    SigV4Auth(Credentials(access_key_id, secret_access_key), "ecr", region).add_auth(request)
    return dict(request.headers.items())


def _issued_token(status: int, content: bytes) -> str:
    """Base64 of USER:PASSWORD. `UpstreamFailed`."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    document: Mapping[str, Any] = found if isinstance(found, dict) else {}
    if status != 200:
        kind = str(document.get("__type", "")).rpartition("#")[2]
        if kind.startswith(_DENIED):
            raise UpstreamFailed(UpstreamReason.DENIED, _printable(kind), "no password is issued for the access key")
        is_limited = status == 429 or kind.startswith("Throttling")
        raise UpstreamFailed(
            UpstreamReason.LIMITED if is_limited else UpstreamReason.UNAVAILABLE, f"token {status}", "no password"
        )
    try:
        [issued] = document["authorizationData"]
        token = str(issued["authorizationToken"])
    except (LookupError, TypeError, ValueError):
        token = ""
    if not _TOKEN.fullmatch(token):
        raise UpstreamFailed(UpstreamReason.WRONG, "bad-token", "the answer holds no password")
    return token


def _printable(kind: str) -> str:
    return kind[:64] if kind.isascii() and kind.isprintable() else "denied"
