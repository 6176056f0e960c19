"""/readyz: which parts it asks, what it says of each, when it says no."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.app import health
from proxy.model.errors import Code, Failure

Part = Callable[[], Awaitable[str | None]]


async def well() -> None:
    pass


async def told() -> str:
    return "grace: what was known is served on"


async def away() -> None:
    raise Failure(Code.STORE_UNAVAILABLE, "the object store does not answer", hint="it is asked again every second")


async def broken() -> None:
    raise RuntimeError("with a text that is nobody's business")


async def ask(parts: dict[str, Part], query: str = "", *, leaving: bool = False) -> tuple[int, dict[str, Any]]:
    request = make_mocked_request("GET", f"/readyz{query}")
    answer = await health.readyz(parts, lambda: leaving, request)
    assert isinstance(answer, web.Response)
    assert answer.text is not None
    return answer.status, json.loads(answer.text)


async def test_a_part_that_is_well_may_have_a_word_to_say() -> None:
    assert await ask({"store": well, "metadata": told}) == (
        200,
        {"ready": True, "store": "ok", "metadata": "grace: what was known is served on"},
    )


async def test_one_part_that_is_away_is_named_with_its_reason_and_hint() -> None:
    status, said = await ask({"store": away, "metadata": well})
    assert (status, said["ready"], said["metadata"]) == (503, False, "ok")
    assert said["store"] == "the object store does not answer (it is asked again every second)"


async def test_a_part_that_breaks_is_not_ready_and_its_text_stays_in_the_log() -> None:
    assert await ask({"store": broken}) == (503, {"ready": False, "store": "RuntimeError"})


async def test_a_part_that_does_not_answer_is_not_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    status, said = await ask({"store": hangs, "metadata": well})
    assert (status, said["store"], said["metadata"]) == (503, "no answer within 0.05 s", "ok")


async def test_a_part_that_is_excluded_is_not_asked_and_keeps_nobody_out() -> None:
    async def asked() -> None:
        raise AssertionError("it was asked")

    parts: dict[str, Part] = {"store": asked, "metadata": well, "key": well, "key_provider": asked}
    assert await ask(parts, "?exclude=store&exclude=key_provider") == (
        200,
        {"ready": True, "store": "not asked", "metadata": "ok", "key": "ok", "key_provider": "not asked"},
    )


async def test_the_other_parts_still_decide() -> None:
    status, said = await ask({"store": away, "metadata": away}, "?exclude=store")
    assert (status, said["store"]) == (503, "not asked")
    assert said["metadata"].startswith("the object store does not answer")


@pytest.mark.parametrize("query", ["?exclude=stroe", "?exclude=store&exclude=", "?exclude=store,metadata"])
async def test_a_name_that_is_no_parts_is_refused_with_those_that_are(query: str) -> None:
    assert await ask({"store": well, "metadata": well}, query) == (
        400,
        {"ready": False, "exclude": "knows store, metadata"},
    )


async def test_a_draining_server_says_so_whatever_is_excluded() -> None:
    assert await ask({"store": well}, "?exclude=store", leaving=True) == (503, {"ready": False, "server": "draining"})
