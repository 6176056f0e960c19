"""When each access key was last used, for GetAccessKeyLastUsed: noted at most once an hour and key.

Nobody's request waits for a note, or fails with it; what cannot be noted now is noted at a later use.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from proxy import observe
from proxy.model.errors import Failure

EVERY_SECONDS = 3600.0
AGAIN_SECONDS = 60.0  # after a failure
KEYS_KEPT = 4096  # of which it is known when they were noted; others may be noted more often
WAITING_MAX = 256  # uses not yet handed over; more are left for a later request

NoteKeyUse = Callable[[str, float, str, str], Awaitable[object]]
"""(access key id, epoch seconds, region, service)"""


class KeyUses:
    """One worker's notes. `note` hands one over; it is asked for one at a time."""

    def __init__(self, note: NoteKeyUse, clock: Callable[[], float]) -> None:
        self._note = note
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        self._waiting: dict[str, tuple[float, str, str]] = {}
        self._handing_over: asyncio.Task[None] | None = None

    def seen(self, access_key_id: str, region: str, service: str) -> None:
        """A request of this key has been proven. Returns at once; to be called inside the running loop."""
        now = self._clock()
        if now < self._due.get(access_key_id, 0.0) or len(self._waiting) >= WAITING_MAX:
            return
        self._waiting[access_key_id] = (now, region, service)
        self._put_off(access_key_id, now + EVERY_SECONDS)
        if self._handing_over is None or self._handing_over.done():
            self._handing_over = asyncio.get_running_loop().create_task(self._hand_over(), name="key uses")

    async def idle(self) -> None:
        """Return once all that was seen has been handed over, or could not be."""
        if self._handing_over is not None:
            await self._handing_over

    async def _hand_over(self) -> None:
        while self._waiting:
            access_key_id = next(iter(self._waiting))
            at, region, service = self._waiting.pop(access_key_id)
            try:
                await self._note(access_key_id, at, region, service)
            except Failure as error:
                self._put_off(access_key_id, at + AGAIN_SECONDS)
                observe.log.info("the use of an access key could not be noted", key=access_key_id, why=error.code)

    def _put_off(self, access_key_id: str, until: float) -> None:
        self._due[access_key_id] = until
        self._due.move_to_end(access_key_id)
        if len(self._due) > KEYS_KEPT:
            self._due.popitem(last=False)
