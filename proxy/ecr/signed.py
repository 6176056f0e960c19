"""A signed request, proven and then read: the step from aiohttp to a principal and the bytes it vouches for.

In the order that costs least: headers, scope, date, the access key's row, and only then the body, which is bounded and
hashed as it arrives. `100-continue` goes out between the row and the body. Nothing of a body is looked at before its
signature was checked. Must not know operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.auth.secrets import open_secret
from proxy.auth.sigv4 import Claim, Headers, Reason, Refused, SigningKeys, check_claim, check_signature, read_claim
from proxy.ecr.errors import Unreadable, WireError, not_readable, too_large
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, Principal

FindAccessKey = Callable[[str], Awaitable[AccessKey | None]]

UNKNOWN_KEY_TEXT = "The security token included in the request is invalid."


@dataclass(frozen=True, slots=True)
class Service:
    """What a service of ours wants of a signature. `regions` may be in the scope, besides the registry's own."""

    name: str
    required: Sequence[str]
    skew_minutes: int
    body_max: int
    regions: Sequence[str] = ()


class Signatures:
    """Proves requests; keeps the signing keys of the day."""

    def __init__(
        self, access_key: FindAccessKey, secrets: SmallSealer, *, region: str, clock: Callable[[], float]
    ) -> None:
        """`secrets` opens what `auth.secrets` sealed; `clock` tells epoch seconds."""
        self._access_key = access_key
        self._secrets = secrets
        self._region = region
        self._clock = clock
        self._keys = SigningKeys()

    async def read(self, request: web.Request, claim: Claim, service: Service) -> tuple[Principal, bytes]:
        """Who signed the request, and its body. Refused, Unreadable, or Failure of the look-up."""
        headers = header_lines(request)
        check_claim(
            claim,
            service=service.name,
            regions=(self._region, *service.regions),
            required=service.required,
            now=self._clock(),
            skew_minutes=service.skew_minutes,
        )
        if "X-Amz-Security-Token" in request.headers:
            # Only sessions carry one, and there is none: what is not understood must not be waved through.
            raise Refused(Reason.UNKNOWN_KEY, UNKNOWN_KEY_TEXT)
        row = await self._access_key(claim.access_key_id)
        if row is None:
            raise Refused(Reason.UNKNOWN_KEY, UNKNOWN_KEY_TEXT)
        key = self._signing_key(claim, row)
        body = await _read_body(request, service.body_max)
        path, _, query = request.raw_path.partition("?")
        check_signature(
            claim,
            key,
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        observe.note(principal=row.principal.arn)
        return row.principal, body

    def _signing_key(self, claim: Claim, row: AccessKey) -> bytes:
        try:
            return self._keys.get(
                claim,
                row.sealed_secret,
                lambda: open_secret(self._secrets, row.access_key_id, row.sealed_secret),
            )
        except ValueError as error:
            raise Failure(
                Code.SERVER,
                "The access key cannot be read by this server.",
                hint=f"no master key here opens the secret of {row.access_key_id}: {error}",
            ) from None


def claim_of(request: web.Request) -> Claim:
    """What the request says of itself; Refused when there is nothing that could be checked."""
    return read_claim(header_lines(request), request.raw_path.partition("?")[2])


def header_lines(request: web.Request) -> Headers:
    return tuple(request.headers.items())


async def _read_body(request: web.Request, limit: int) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unreadable(WireError(415, "SerializationException", "The request body must not be compressed."))
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim line is not the answer's beginning
    body = bytearray()
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > limit:
                raise too_large(limit)
    except web.RequestPayloadError:
        raise not_readable("The request body is not framed as HTTP says.") from None
    return bytes(body)
