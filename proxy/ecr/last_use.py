"""Records when each access key and each role was last used: at most once an hour for each.

No request waits for a record, or fails with it; a failed record is repeated at a later use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy import observe
from proxy.model.errors import Failure
from proxy.model.lru import Lru

EVERY_SECONDS = 3600.0
RETRY_SECONDS = 60.0  # after a failure
NAMES_MAX = 4096  # keys and roles with a known last record; others may be recorded more often
WAITING_MAX = 256  # uses not yet sent; more are left for a later request

Note = Callable[..., Awaitable[object]]
"""(access key id or unique id, epoch seconds, and where: region, and of a key the service)"""


class LastUses:
    """One worker's records. `note` sends one; calls are serial."""

    def __init__(self, note: Note, clock: Callable[[], float]) -> None:
        self._note = note
        self._clock = clock
        self._due = Lru[str, float](NAMES_MAX)
        self._waiting: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._handing_over: asyncio.Task[None] | None = None

    def used(self, name: str, *where: str) -> None:
        """Record a use: a request of this key was authenticated, or the role was assumed.

        Returns at once; call it inside the running loop."""
        now = self._clock()
        if now < self._due.get(name, 0.0) or len(self._waiting) >= WAITING_MAX:
            return
        self._waiting[name] = (now, where)
        self._put_off(name, now + EVERY_SECONDS)
        if self._handing_over is None or self._handing_over.done():
            self._handing_over = asyncio.get_running_loop().create_task(self._hand_over(), name="last uses")

    async def idle(self) -> None:
        """Return once all uses were sent, or failed."""
        if self._handing_over is not None:
            await self._handing_over

    async def _hand_over(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            at, where = self._waiting.pop(name)
            try:
                await self._note(name, at, *where)
            except Failure as error:
                self._put_off(name, at + RETRY_SECONDS)
                observe.log.info("a last use could not be noted", of=name, why=error.code)

    def _put_off(self, name: str, until: float) -> None:
        self._due[name] = until
