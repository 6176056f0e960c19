"""A fleet's pull: each puller comes once, on a connection of its own and with a token of its own.

A pull is what a client does that has none of a small image: HEAD by tag, GET by digest, the config, the layer. So many
pullers are under way at once; the next one connects when one has left. One thread drives them all. Of each answer
status and Content-Length are checked; bodies are taken and dropped. Nothing that a server keeps for a client that
repeats its request is of use here, as no two pullers send the same bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from asks import Request
from bars import Bar, Group, Measured, Row
from figures import measure
from layers import REPOSITORY, blob_path
from load import Content, Line, expect, push_blob
from peers import OURS, Peer
from people import KIND, narrow_credentials

from proxy.admin.session import visiting
from proxy.app.context import WorkerContext
from proxy.auth.tokens import LIFETIME, PURPOSE, Tokens
from proxy.config.loader import load

AT_ONCE = 32
CONFIG = 2 * 1024
LAYER = 64 * 1024
TAG = "fleet"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_seconds = itertools.count()


class Fleet(Group):
    """Pulls of one image of a config and a layer of 64 KiB."""

    name = "fleet"

    def __init__(self, peers: Sequence[Peer], *, quick: bool) -> None:
        self._fleets = {peer.name: PullerFleet.of(peer) for peer in peers if peer.takes_pushes}
        self._count = 64 if quick else 1500
        name = f"pull of a fleet: own connection and token, c = {AT_ONCE}"
        self.rows = [Row(name, "cpu-s/1,000", "cpu", Bar(0.4), list(self._fleets), self._pull)]

    def begin(self) -> None:
        for fleet in self._fleets.values():
            fleet.renew_tokens(self._count)

    def _pull(self, server: str) -> Measured:
        fleet = self._fleets[server]
        figure = measure(fleet.peer, self._count / 1000, partial(fleet.pull, AT_ONCE))
        told = {kind: value for kind, value in figure.told().items() if kind not in ("read", "disk")}
        return {**told, "rate": round(1000 / figure.wall)}


@dataclass
class PullerFleet:
    """The pullers of one server: what each asks for in turn, and the header lines of each."""

    peer: Peer
    requests: Sequence[Request]
    credentials: tuple[str, str] | None  # of the user whose tokens they have; None where nobody asks for one
    headers: Sequence[str] = ()

    @classmethod
    def of(cls, peer: Peer) -> PullerFleet:
        """An image is pushed; of ours, a user of twenty statements pulls it, and the repository has a policy."""
        line = Line(peer.address, peer.headers)
        parts = []
        for kind, size in (("config.v1+json", CONFIG), ("layer.v1.tar+gzip", LAYER)):
            made = Content(size).fresh()
            push_blob(line, REPOSITORY, made, made.digest)
            parts.append({"mediaType": f"application/vnd.oci.image.{kind}", "digest": made.digest, "size": size})
        manifest = {"schemaVersion": 2, "mediaType": KIND, "config": parts[0], "layers": parts[1:]}
        body = json.dumps(manifest).encode()
        manifests = f"/v2/{REPOSITORY}/manifests"
        expect(line.ask("PUT", f"{manifests}/{TAG}", body, f"Content-Type: {KIND}\r\n"), 201)
        line.close()
        accept = f"Accept: {KIND}\r\n"
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        requests = [
            Request("HEAD", f"{manifests}/{TAG}", len(body), accept),
            Request("GET", f"{manifests}/{digest}", len(body), accept),
            *(Request("GET", blob_path(str(part["digest"])), int(str(part["size"]))) for part in parts),
        ]
        return cls(peer, requests, narrow_credentials(peer) if peer.name == OURS else None)

    def renew_tokens(self, count: int) -> None:
        """For `count` pullers, each another one than ever before."""
        if self.credentials is None:
            self.headers = [self.peer.headers] * count
            return
        tokens = new_tokens(self.peer, self.credentials[0], count)
        self.headers = [f"Authorization: Basic {token}\r\n" for token in tokens]

    def pull(self, at_once: int) -> None:
        """Let all of them pull."""
        coming = iter(self.headers)
        poll = select.epoll()
        pullers: dict[int, _Puller] = {}

        def begin() -> None:
            if (headers := next(coming, None)) is not None:
                puller = _Puller(self.peer, self.requests, headers)
                pullers[puller.sock.fileno()] = puller
                poll.register(puller.sock, select.EPOLLIN)

        try:
            for _ in range(at_once):
                begin()
            while pullers:
                for descriptor, _ in poll.poll():
                    if pullers[descriptor].take():
                        poll.unregister(descriptor)
                        pullers.pop(descriptor).sock.close()
                        begin()
        finally:
            poll.close()
            for puller in pullers.values():
                puller.sock.close()


class _Puller:
    """One connection, and what it has still to ask for."""

    __slots__ = ("_body", "_coming", "_head", "_request", "_sent", "sock")

    def __init__(self, peer: Peer, requests: Sequence[Request], headers: str) -> None:
        host, _, port = peer.address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent = f"Host: {peer.address}\r\nUser-Agent: fleet/1\r\n{headers}"
        self._coming = iter(requests)
        self._next()

    def _next(self) -> bool:
        request = next(self._coming, None)
        if request is None:
            return False
        self._request, self._head, self._body = request, b"", -1
        self.sock.sendall(f"{request.method} {request.path} HTTP/1.1\r\n{self._sent}{request.more}\r\n".encode())
        return True

    def take(self) -> bool:
        """Whether the last answer is there in full; ValueError when one is not what was looked for."""
        got = self.sock.recv(256 * 1024)
        if not got:
            raise ConnectionError("closed before an answer")
        if self._body < 0:
            self._head += got
            end = self._head.find(_HEAD_END)
            if end < 0:
                return False
            length = _LENGTH.search(self._head, 0, end + 2)
            if self._head[9:12] != b"200" or length is None or int(length[1]) != self._request.length:
                raise ValueError(f"not the answer that was looked for: {self._head[:200]!r}")
            self._body = 0 if self._request.method == "HEAD" else self._request.length
            got = self._head[end + len(_HEAD_END) :]
        self._body -= len(got)
        if self._body < 0:
            raise ValueError("more came than was announced")
        return not self._body and not self._next()


def new_tokens(peer: Peer, access_key_id: str, count: int) -> list[str]:
    """`count` tokens as GetAuthorizationToken makes them for that key, as they stand behind `Basic`, each of another
    second, as a fleet fetches them: made here, as the server's own would be of one second all."""
    config = load(flags={"server.data": str(peer.stored.parent), "log.level": "error"}, environ={})

    async def run(own: WorkerContext) -> list[str]:
        await own.agreement.begin(moving=True)
        key = await own.metadata.access_key(access_key_id)
        assert key is not None
        principal, tokens = key.principal, Tokens(own.agreement.sealer(PURPOSE))
        made = []
        for _ in range(count):
            issued = time.time() - 60 - next(_seconds) % (LIFETIME // 2)
            token, _ = tokens.issue(
                principal, principal.account, config.registry.region, issued, access_key_id=access_key_id
            )
            made.append(base64.b64encode(f"AWS:{token}".encode()).decode())
        return made

    return asyncio.run(visiting(config, run))
