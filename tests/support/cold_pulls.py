"""Clients that pull, through a pull-through rule, images that are new at its upstream. For chaos tests.

Each publishes an image at the upstream itself, and pulls it with others at once, some of which leave. A client may meet
a cut connection, 429 or a server error; whatever ends well must be the image, byte for byte, and any other answer ends
the run. `finish` pulls all of them again, in peace: each must be whole within `FRESH_SECONDS`, or its fetch is stuck.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from support.registry import Registry, digest_of
from support.workload import NO_ANSWER, TROUBLE, Unanswered

TOGETHER = 3  # clients that pull one image at once
FRESH_SECONDS = 60  # a lease of a dead worker is over after 15 s, and its upload's after 20
SIZES = (1, 40_000, 300_000, 1_500_000)


@dataclass(slots=True)
class ColdTally:
    """Counts of a run, for its report."""

    published: int = 0
    pulled: int = 0
    unanswered: int = 0
    left: int = 0


class ColdPuller:
    """One publisher and its clients. `upstream` is the registry itself, `prefix` the rule's."""

    def __init__(
        self, registry: Registry, upstream: Registry, prefix: str, name: str, draw: random.Random, tally: ColdTally
    ) -> None:
        self._registry = registry
        self._upstream = upstream
        self._name = name
        self._repository = f"{prefix}/{name}"
        self._draw = draw
        self._tally = tally
        self._published: dict[str, bytes] = {}  # tags to manifests

    async def live(self, stop: Callable[[], bool]) -> None:
        """Publish and pull until `stop`."""
        while not stop():
            tag = f"t{self._tally.published}-{self._draw.getrandbits(32):08x}"
            layers = [self._draw.randbytes(self._draw.choice(SIZES)) for _ in range(2)]
            try:
                manifest = await self._upstream.push_image(self._name, tag, layers, tag)
            except TROUBLE:  # it was killed
                await asyncio.sleep(self._draw.uniform(0, 0.5))
                continue
            self._published[tag] = manifest
            self._tally.published += 1
            came = 0
            while came < TOGETHER and not stop():
                came += sum(await asyncio.gather(*(self._client(tag) for _ in range(TOGETHER))))
                await asyncio.sleep(self._draw.uniform(0, 0.5))

    async def finish(self) -> None:
        """AssertionError if an image cannot be pulled in time."""
        for tag in self._published:
            deadline = time.monotonic() + FRESH_SECONDS
            while (failed := await self._failure(tag)) is not None:
                assert time.monotonic() < deadline, f"{self._repository}:{tag} cannot be pulled: {failed}"
                await asyncio.sleep(0.2)

    async def _failure(self, tag: str) -> Unanswered | None:
        try:
            await self._pull(tag)
        except Unanswered as failed:
            return failed
        return None

    async def _client(self, tag: str) -> bool:
        """Pull the image, or leave within it; whether it came."""
        patience = self._draw.uniform(0, 0.5) if self._draw.random() < 0.2 else None
        try:
            async with asyncio.timeout(patience):
                await self._pull(tag)
        except TimeoutError:
            self._tally.left += 1
            return False
        except Unanswered:
            self._tally.unanswered += 1
            return False
        self._tally.pulled += 1
        return True

    async def _pull(self, tag: str) -> None:
        manifest = await self._get(f"manifests/{tag}")
        assert manifest == self._published[tag], f"{self._repository}:{tag}: a wrong manifest was served"
        facts = json.loads(manifest)
        for descriptor in (facts["config"], *facts["layers"]):
            content = await self._get(f"blobs/{descriptor['digest']}")
            assert digest_of(content) == descriptor["digest"], f"{self._repository}:{tag}: wrong bytes were served"

    async def _get(self, path: str) -> bytes:
        full = f"/v2/{self._repository}/{path}"
        try:
            answer = await self._registry.ask("GET", full)
        except TROUBLE as error:
            raise Unanswered(repr(error)) from error
        if answer.status in (*NO_ANSWER, 429):
            raise Unanswered(f"{path}: {answer.status} {answer.body[:300]!r}")
        assert answer.status == 200, f"GET {full}: {answer.status}: {answer.body[:300]!r}"
        return answer.body
