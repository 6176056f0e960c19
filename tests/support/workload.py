"""Clients that push, pull and delete, each in its own repository, and know exactly what they may read. For chaos tests.

For each tag an `Actor` keeps the set of its possible values: one after an acknowledgement, the old and the new one
after a request whose answer never came. Whatever is read must be in that set, bit for bit; what was never committed
must not be seen. Faults that a client may meet while servers die (a cut connection, 503, a balancer's 502 or 504) are
no error; any other answer is, and ends the run.

A request without an answer may still be carried out by a server that waits for its database, so its tags are not used
for `settle` seconds. Where a proxy may repeat a PUT or a DELETE whose answer it lost (`repeated`), the answer may be
the second one's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from support.registry import Answer, Registry, digest_of, image_manifest

TROUBLE = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
TAGS = ("a", "b", "c", "d")
NO_ANSWER = (502, 503, 504)


class Unanswered(Exception):
    """The request may have been done, or not."""


@dataclass(frozen=True, slots=True)
class Image:
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


@dataclass(slots=True)
class Tally:
    """Counts of a run, for its report."""

    pushed: int = 0
    pulled: int = 0
    deleted: int = 0
    unanswered: int = 0
    halves: int = 0
    kills: dict[str, int] = field(default_factory=dict)


class RegistryClient(Protocol):
    """One registry, or several addresses of one."""

    async def ask(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer: ...


class AnyRegistry:
    """One registry at several addresses: each request goes to one of them at random."""

    def __init__(self, registries: Sequence[Registry], draw: random.Random) -> None:
        self._registries = registries
        self._draw = draw

    async def ask(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return await self._draw.choice(self._registries).ask(method, path, body=body, headers=headers)


class Actor:
    """One client with one repository. `possible[tag]` holds what the tag may be; None is absence."""

    def __init__(
        self,
        registry: RegistryClient,
        repository: str,
        draw: random.Random,
        tally: Tally,
        *,
        settle: float = 0.0,
        repeated: bool = False,
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.draw = draw
        self.tally = tally
        self.possible: dict[str, set[Image | None]] = {tag: {None} for tag in TAGS}
        self.halves: list[str] = []
        self._settle = settle
        self._repeated = repeated
        self._asked: set[str] = set()  # tags that the request under way may change
        self._in_peace_until = dict.fromkeys(TAGS, 0.0)
        self.shared = [
            random.Random(seed).randbytes(size) for seed, size in enumerate((0, 1, 50_000, 300_000, 1_200_000))
        ]

    async def live(self, stop: Callable[[], bool]) -> None:
        """Act until `stop`."""
        while not stop():
            now = time.monotonic()
            settled = [tag for tag in TAGS if self._in_peace_until[tag] <= now]
            if not settled:
                await asyncio.sleep(0.1)
                continue
            act = self.draw.choices(
                [self.push, self.pull, self.delete_tag, self.delete_image, self.leave_a_half], [5, 6, 1, 1, 1]
            )[0]
            try:
                await act(self.draw.choice(settled))
            except Unanswered:
                self.tally.unanswered += 1
                self._in_peace_until.update(dict.fromkeys(self._asked, time.monotonic() + self._settle))
                await asyncio.sleep(self.draw.uniform(0, 0.1))  # a client's back-off
            self._asked.clear()

    async def settled(self) -> None:
        """Waits until every request without an answer was carried out or never will be."""
        await asyncio.sleep(max(0.0, max(self._in_peace_until.values()) - time.monotonic()))

    # ---- acts ------------------------------------------------------------------------------------------------------
    async def push(self, tag: str) -> None:
        image = self._new_image()
        for content in (*image.layers, image.config):
            await self._push_blob(content)
        before = self.possible[tag]
        self._asked = {tag}
        self.possible[tag] = before | {image}
        await self._ask("PUT", f"manifests/{tag}", 201, body=image.manifest)
        self.possible[tag] = {image}
        self.tally.pushed += 1

    async def pull(self, tag: str) -> None:
        """What comes is one of what the tag may be, whole; and then it is that."""
        may = self.possible[tag]
        answer = await self._ask("GET", f"manifests/{tag}", 200, 404)
        found = await self._whole(answer) if answer.status == 200 else None
        assert found in may, f"{self.repository}:{tag} is {describe(found)}, may be {[describe(each) for each in may]}"
        self.possible[tag] = {found}
        self.tally.pulled += 1

    async def delete_tag(self, tag: str) -> None:
        before = self.possible[tag]
        self._asked = {tag}
        self.possible[tag] = before | {None}
        answer = await self._ask("DELETE", f"manifests/{tag}", 202, 404)
        assert answer.status == 202 or None in before or self._repeated
        self.possible[tag] = {None}
        self.tally.deleted += 1

    async def delete_image(self, tag: str) -> None:
        """By digest, which takes its tags along."""
        image = next(iter(self.possible[tag]))
        if image is None:
            return
        self._asked = {each for each in TAGS if image in self.possible[each]}
        for each in self._asked:
            self.possible[each] = self.possible[each] | {None}
        await self._ask("DELETE", f"manifests/{image.digest}", 202, 404)
        for each in TAGS:
            if image in self.possible[each]:
                self.possible[each] = self.possible[each] - {image}
        self.tally.deleted += 1

    async def leave_a_half(self, tag: str) -> None:
        """An upload that is never closed: its digest must never be seen."""
        content = self.draw.randbytes(self.draw.randrange(1, 400_000))
        self.halves.append(digest_of(content))
        location = (await self._ask("POST", "blobs/uploads/", 202)).headers["Location"]
        await self._ask("PATCH", location, 202, 416, body=content)
        self.tally.halves += 1

    async def verify(self) -> None:
        """Everything that was acknowledged is there bit for bit, and nothing that was not."""
        for tag in TAGS:
            await self.pull(tag)
        for digest in self.halves:
            await self._ask("HEAD", f"blobs/{digest}", 404)

    # ---- how -------------------------------------------------------------------------------------------------------
    def _new_image(self) -> Image:
        layers = [self.draw.choice(self.shared)]
        layers += [self.draw.randbytes(self.draw.choice((1, 5_000, 262_144, 262_145, 900_000))) for _ in range(2)]
        config = json.dumps({"os": "linux", "nonce": self.draw.getrandbits(64)}).encode()
        return Image(image_manifest(config, layers), config, tuple(layers))

    async def _push_blob(self, content: bytes) -> None:
        """In one of the ways that clients use. A session that a dead worker still holds is given up for a new one."""
        digest = digest_of(content)
        for _ in range(3):
            way = self.draw.choice(("post", "patch", "chunks", "put"))
            if way == "post":
                await self._ask("POST", f"blobs/uploads/?digest={digest}", 201, body=content)
                return
            location = (await self._ask("POST", "blobs/uploads/", 202)).headers["Location"]
            chunks = [content] if way == "patch" else cut(content, self.draw) if way == "chunks" else []
            for chunk in chunks:
                answer = await self._ask("PATCH", location, 202, 416, 503, body=chunk)
                if answer.status != 202:
                    break
                location = answer.headers["Location"]
            else:
                last = content if way == "put" else None
                joined = f"{location}{'&' if '?' in location else '?'}digest={digest}"
                try:
                    answer = await self._ask("PUT", joined, 201, *((503,) if self._repeated else ()), body=last)
                except Unanswered:
                    # As proxies do: the closing PUT is asked again. It may also have to be sent anew.
                    await self._ask("PUT", joined, 201, 503, 416, 404, 400, body=last)
                    head = await self._ask("HEAD", f"blobs/{digest}", 200, 404)
                    if head.status == 404:
                        continue
                else:
                    if answer.status != 201:  # the first one still holds the session, dead or alive
                        continue
                return
        raise Unanswered

    async def _whole(self, answer: Answer) -> Image:
        """The image of a manifest that came, each blob read and hashed."""
        manifest = answer.body
        assert digest_of(manifest) == answer.headers["Docker-Content-Digest"]
        facts = json.loads(manifest)
        blobs = []
        for descriptor in (facts["config"], *facts["layers"]):
            content = (await self._ask("GET", f"blobs/{descriptor['digest']}", 200)).body
            assert digest_of(content) == descriptor["digest"], f"{self.repository}: wrong bytes were served"
            blobs.append(content)
        return Image(manifest, blobs[0], tuple(blobs[1:]))

    async def _ask(self, method: str, path: str, *statuses: int, body: bytes | None = None) -> Answer:
        full = path if path.startswith(("/", "http")) else f"/v2/{self.repository}/{path}"
        kind = "application/vnd.oci.image.manifest.v1+json" if "/manifests/" in full else "application/octet-stream"
        headers = {"Accept": kind} if body is None else {"Content-Type": kind}
        try:
            answer = await self.registry.ask(method, full, body=body, headers=headers)
        except TROUBLE as error:
            raise Unanswered from error
        if answer.status in NO_ANSWER and answer.status not in statuses:
            raise Unanswered
        assert answer.status in statuses, f"{method} {full}: {answer.status}, not {statuses}: {answer.body[:300]!r}"
        return answer


def describe(image: Image | None) -> str:
    return "absent" if image is None else image.digest[7:19]


def cut(content: bytes, draw: random.Random) -> Sequence[bytes]:
    """Two to four pieces, some of them perhaps empty."""
    places = sorted(draw.randrange(len(content) + 1) for _ in range(draw.randrange(1, 4)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


async def pauses(draw: random.Random, least: float, most: float, seconds: float) -> AsyncIterator[float]:
    """Moments at random distances until `seconds` are over; yields the seconds so far."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while clock() - began < seconds:
        await asyncio.sleep(draw.uniform(least, most))
        yield clock() - began
