"""Checks the signature of a request and reads its body. Called by `routes`, `query`, `layers` and `json_services`.

The cheapest check comes first: head, scope, date, the access key's row or the session token, and only then the body,
which is charged (`bodies`), bounded and hashed as it arrives. There are two ways to read a body: `read` returns it
whole, after its signature was checked; `stream` returns a large one in pieces, none of which may be used for good
before `prove` has returned. Must not know operations.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aiohttp import web

from proxy import observe
from proxy.auth.callers import CallerLookups, Callers
from proxy.auth.envelope import SmallSealer
from proxy.auth.failed_logins import FailedLogins
from proxy.auth.secrets import open_secret
from proxy.auth.sessions import SessionCredentials, SessionExpired, SessionInvalid, Sessions, check_time
from proxy.auth.signing_keys import SigningKeys
from proxy.auth.sigv4 import Claim, Headers, SignatureReason, SignatureRefused, check_claim, check_signature, read_claim
from proxy.ecr.bodies import charged, chunks
from proxy.ecr.encrypted_temp_file import EncryptedTempFile
from proxy.ecr.errors import throttled
from proxy.ecr.last_use import LastUses
from proxy.ecr.services import ApiService
from proxy.http.limited_connection import client_of
from proxy.http.request_info import path_of
from proxy.http.unproven_budget import Charge, UnprovenBytes
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, Caller
from proxy.model.lru import Lru

UNKNOWN_KEY_TEXT = "The security token included in the request is invalid."
EXPIRED_TEXT = "The security token included in the request is expired"
TOO_MANY_TEXT = "Too many signatures that did not match came from this address. Try again later."
SESSIONS_MAX = 512  # session tokens, some 6 KB each at most

Admit = Callable[["SignedBody"], Awaitable[Callable[[], None]]]
"""Waits for a body's slot; the returned function is called once the signature is checked (`body_limiter`)."""


class KeyLookups(CallerLookups, Protocol):
    """The part of `metadata.contract.Metadata` that has access keys and their principals."""

    async def access_key(self, access_key_id: str) -> AccessKey | None: ...


class Signatures:
    """Checks signatures; caches the signing keys of the day and recent session tokens."""

    def __init__(
        self,
        lookups: KeyLookups,
        secrets: SmallSealer,
        sessions: Sessions,
        *,
        region: str,
        clock: Callable[[], float],
        callers: Callers | None = None,
        uses: LastUses | None = None,
        unproven: UnprovenBytes | None = None,
        folder: Path | None = None,
        logins: FailedLogins | None = None,
    ) -> None:
        """`secrets` opens what `auth.secrets` sealed; `clock` returns epoch seconds.

        `callers` is shared by all protocols (None: not shared); `uses` records each use of a key. `unproven` is charged
        for bodies before their signature is checked; long ones are written to `folder` (None: the system's temporary
        folder). `logins` slows down clients whose signatures fail (None: no limit).
        """
        self._lookups = lookups
        self._secrets = secrets
        self._sessions = sessions
        self._region = region
        self._clock = clock
        self._callers = callers or Callers(lookups, clock)
        self._uses = uses
        self.unproven = unproven or UnprovenBytes()
        self._logins = logins or FailedLogins(0)
        self._folder = folder or Path(tempfile.gettempdir())
        self._keys = SigningKeys()
        self._opened = Lru[bytes, SessionCredentials](SESSIONS_MAX)

    async def read(
        self, request: web.Request, claim: Claim, service: ApiService, slot: Admit | None = None
    ) -> tuple[Caller, bytes]:
        """Who signed the request, and its whole body, which waits for its `slot`. Refused, Unreadable, or Failure of a
        look-up."""
        async with EncryptedTempFile(self._folder) as spool, self.stream(request, claim, service) as body:
            proven = await slot(body) if slot is not None else None
            async for chunk in body:
                await spool.write(chunk)
            caller = await body.prove()
            if proven is not None:
                proven()
            return caller, b"".join([piece async for piece in spool.content()])

    @contextlib.asynccontextmanager
    async def stream(self, request: web.Request, claim: Claim, service: ApiService) -> AsyncIterator[SignedBody]:
        """The body of a request in pieces, up to `service.body_max` bytes; `prove` returns its signer.

        Refused before the first byte for a claim that cannot hold. Left without an error and without a proof is a
        mistake of the caller's (RuntimeError)."""
        check_claim(
            claim,
            service=service.name,
            regions=(self._region, *service.regions),
            required=service.required,
            now=self._clock(),
            skew_minutes=service.skew_minutes,
            presigned_seconds=service.presigned_seconds,
        )
        client = client_of(request)
        async with charged(request, self.unproven) as charge:
            try:
                signer = await self._session(claim) if claim.token else await self._long_lived(claim, client)
            except SignatureRefused as refused:
                if refused.reason is SignatureReason.UNKNOWN_KEY:
                    self._failed(client, claim)
                raise
            async with contextlib.aclosing(chunks(request, service.body_max, charge)) as pieces:
                body = SignedBody(request, claim, pieces, signer, charge)
                try:
                    yield body
                except SignatureRefused:
                    if body.is_refused:
                        self._failed(client, claim, claim.access_key_id)
                    raise
        if not body.is_proven:
            raise RuntimeError("the body of a signed request was used without a proof")
        if not claim.token:
            self._logins.proven(client, claim.access_key_id)
            if self._uses is not None:
                self._uses.used(claim.access_key_id, claim.region, claim.service)

    def _failed(self, client: str, claim: Claim, key: str = "") -> None:
        """`key` is an existing access key. A session's key is as secret as its token, and is not slowed down."""
        observe.metrics.logins_failed.labels("ecr").inc()
        self._logins.failed(client, "" if claim.token else key)

    async def _long_lived(self, claim: Claim, client: str) -> _Signer:
        if seconds := self._logins.wait(client, claim.access_key_id):
            observe.metrics.logins_refused.labels("ecr").inc()
            raise throttled(TOO_MANY_TEXT, seconds)
        row = await self._lookups.access_key(claim.access_key_id)
        caller = self._callers.of_key(row) if row is not None else None
        if row is None or caller is None:
            raise SignatureRefused(SignatureReason.UNKNOWN_KEY, UNKNOWN_KEY_TEXT)
        try:
            key = self._keys.get(
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
        return _Signer(caller, key)

    async def _session(self, claim: Claim) -> _Signer:
        name = hashlib.sha256(claim.token.encode("utf-8", "surrogateescape")).digest()
        try:
            found = self._open(claim.token, name)
        except SessionExpired:
            raise SignatureRefused(SignatureReason.EXPIRED, EXPIRED_TEXT) from None
        except SessionInvalid:
            raise SignatureRefused(SignatureReason.UNKNOWN_KEY, UNKNOWN_KEY_TEXT) from None
        caller = None
        if found.access_key_id == claim.access_key_id:
            caller = await self._callers.find(
                found.principal_id, found.account, session=found.session, access_key_id=found.access_key_id
            )
        if caller is None:  # a token of another key, of a deleted principal, or a revoked one
            raise SignatureRefused(SignatureReason.UNKNOWN_KEY, UNKNOWN_KEY_TEXT)
        return _Signer(caller, self._keys.get(claim, name, lambda: found.secret))

    def _open(self, token: str, name: bytes) -> SessionCredentials:
        found = self._opened.get(name)
        if found is None:
            found = self._opened[name] = self._sessions.open(token, self._clock())
        else:
            check_time(found.session, self._clock())
        return found


@dataclass(frozen=True, slots=True)
class _Signer:
    """The caller that a claim names, and the key that it must be signed with."""

    caller: Caller
    key: bytes = field(repr=False)


class SignedBody:
    """Chunks of a body, hashed as they are read. Iterate once, then call `prove`; use the chunks for good only then."""

    def __init__(
        self, request: web.Request, claim: Claim, pieces: AsyncIterator[bytes], signer: _Signer, charge: Charge
    ) -> None:
        self.is_proven = self.is_refused = False
        self._charge = charge
        self._request = request
        self._claim = claim
        self._signer = signer
        self._hash = hashlib.sha256()
        self._pieces = pieces

    @property
    def received(self) -> int:
        """Bytes of the body so far."""
        return self._charge.received

    @property
    def account(self) -> str:
        """The account that the request names; unauthenticated until `prove`."""
        return self._signer.caller.account

    def __aiter__(self) -> SignedBody:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._pieces)
        self._hash.update(chunk)
        return chunk

    async def prove(self) -> Caller:
        """Who signed all of the request; reads on to its end. Refused when the signature does not hold."""
        async for _ in self:
            pass
        self.is_refused = True
        check_signature(
            self._claim,
            self._signer.key,
            method=self._request.method,
            path=path_of(self._request),
            query=self._request.raw_path.partition("?")[2],
            headers=header_lines(self._request),
            body_sha256=self._hash.hexdigest(),
        )
        self.is_proven, self.is_refused = True, False
        self._charge.release()
        observe.note(principal=self._signer.caller.arn)
        return self._signer.caller


def claim_of(request: web.Request) -> Claim:
    """What the request says of itself; Refused when there is nothing that could be checked (MISSING: not signed)."""
    return read_claim(header_lines(request), request.raw_path.partition("?")[2])


def header_lines(request: web.Request) -> Headers:
    return tuple(request.headers.items())
