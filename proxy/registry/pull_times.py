"""When images were pulled, as DescribeImages tells it: kept so that no pull waits for it, asks for it, or fails by it.

A pull is a manifest got, by docker's door or by BatchGetImage; of an index and of the image that is then got by its
digest, both are. A worker notes it in memory, once in `EVERY_SECONDS` for each image and principal, and hands over what
has come together every `FLUSH_SECONDS`. Who dies without draining loses what was not handed over; while rows cannot be
written notes wait, up to a bound, and past it are left for a later pull. Must not know HTTP.
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
WAITING_MAX = 4096  # pulls not handed over yet, of some 300 bytes each
KNOWN_MAX = 16_384  # pulls of which it is known that they were noted; others may be noted more often
END_SECONDS = 2.0  # what a drain waits for rows that cannot be written

Name = tuple[str, str, str, str]
"""Account, repository, digest, and the ARN of the user or role who pulled."""


class PullTimes:
    """One worker's notes. To be made, and called, inside the running loop."""

    def __init__(
        self,
        note: Callable[[Sequence[Pull]], Awaitable[None]],
        clock: Callable[[], float],
        *,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """`clock` tells epoch seconds."""
        self._note = note
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._noted = Lru[Name, float](KNOWN_MAX)
        self._waiting: dict[Name, float] = {}
        self._flushing: asyncio.Task[None] | None = None

    def pulled(self, account: str, repository: str, digest: str, principal: str) -> None:
        """Returns at once."""
        name = (account, repository, digest, principal)
        now = self._clock()
        if now < self._noted.get(name, -math.inf) + PULL_EVERY_SECONDS or len(self._waiting) >= WAITING_MAX:
            return
        self._noted[name] = self._waiting[name] = now
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later(), name="pull times")

    async def close(self) -> None:
        """Hand over what waits, if that can be done soon."""
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
