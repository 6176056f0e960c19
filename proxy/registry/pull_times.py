"""Records when images were pulled, for DescribeImages, without delaying or failing a pull.

Each GET of a manifest through OCI, and each image of BatchGetImage, is a pull; an index and the image that a client
then gets by digest are both pulled. A worker notes pulls in memory, once in `PULL_EVERY_SECONDS` for each image and
principal, and writes them every `FLUSH_SECONDS`. A worker that is killed loses unwritten ones; while rows cannot be
written, up to `WAITING_MAX` wait, and further ones are dropped. Made by `app.worker`; called by `images` and
`ecr.routes`. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from proxy import observe
from proxy.model.errors import Failure
from proxy.model.lru import Lru
from proxy.model.records import PULL_EVERY_SECONDS, Pull

FLUSH_SECONDS = 5.0
BATCH_MAX = 500  # pulls in one call and one transaction
WAITING_MAX = 4096  # unwritten pulls, of some 300 bytes each
KNOWN_MAX = 16_384  # pulls remembered as noted; others may be noted more often
END_SECONDS = 2.0  # bound of the last write at a shutdown

Name = tuple[str, str, str, str]
"""Account, repository, digest, and the ARN of the user or role that pulled."""


class PullTimes:
    """One worker's notes. Create and call it inside the running loop."""

    def __init__(
        self,
        note: Callable[[Sequence[Pull]], Awaitable[None]],
        clock: Callable[[], float],
        *,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """`clock` returns epoch seconds."""
        self._note = note
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._noted = Lru[Name, float](KNOWN_MAX)
        self._waiting: dict[Name, float] = {}
        self._flushing: asyncio.Task[None] | None = None

    def pulled(self, account: str, repository: str, digest: str, principal: str) -> None:
        """Note a pull. Returns at once."""
        name = (account, repository, digest, principal)
        now = self._clock()
        if now < self._noted.get(name, -math.inf) + PULL_EVERY_SECONDS or len(self._waiting) >= WAITING_MAX:
            return
        self._noted[name] = self._waiting[name] = now
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later(), name="pull times")

    async def close(self) -> None:
        """Write the waiting pulls, within `END_SECONDS`."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        try:
            async with asyncio.timeout(END_SECONDS):
                while self._waiting:
                    await self._hand_over()
        except (Failure, TimeoutError) as error:
            observe.log.info("times of pulls were not kept", pulls=len(self._waiting), why=repr(error))

    async def _flush_later(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._flush_seconds)
            try:
                while self._waiting:
                    await self._hand_over()
            except Failure as error:
                observe.log.info("times of pulls wait to be kept", pulls=len(self._waiting), why=error.code)

    async def _hand_over(self) -> None:
        batch = dict(list(self._waiting.items())[:BATCH_MAX])
        await self._note([Pull(*name, at=at) for name, at in batch.items()])
        for name in batch:
            del self._waiting[name]
