"""Passwords that do not count slow their sender down at docker's door; who has a token is let in."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from pathlib import Path

from proxy import observe
from proxy.auth.failed_logins import FailedLogins
from support.http_handler import Answer, RawConnection
from support.whole_registry import WholeRegistry, whole_registry

FREE = 2
ATTACKER, OWNER = "127.0.0.2", "127.0.0.3"


class Moment:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def ask(registry: WholeRegistry, client: str, password: str | None) -> Answer:
    host, _, port = registry.url.removeprefix("http://").rpartition(":")
    line = RawConnection(*await asyncio.open_connection(host, int(port), local_addr=(client, 0)))
    try:
        said = "" if password is None else f"Authorization: Basic {b64encode(f'AWS:{password}'.encode()).decode()}\r\n"
        return await line.ask(f"GET /v2/ HTTP/1.1\r\nHost: registry\r\n{said}\r\n".encode())
    finally:
        line.writer.close()


async def test_after_the_free_failures_a_wrong_password_is_429_with_retry_after(tmp_path: Path) -> None:
    """Until the wait is over. A right one is let in from anywhere, also from there; no password is no failure."""
    moment = Moment()
    before = observe.metrics.logins_refused.labels("oci")._value.get()
    async with whole_registry(tmp_path, logins=FailedLogins(FREE, clock=moment)) as registry:
        for _ in range(FREE + 5):
            assert (await ask(registry, ATTACKER, None))[0] == 401
        for _ in range(FREE + 1):
            assert (await ask(registry, ATTACKER, "wrong"))[0] == 401
        status, headers, body = await ask(registry, ATTACKER, "wrong")
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(body)["errors"][0]["code"] == "TOOMANYREQUESTS"
        assert (await ask(registry, OWNER, registry.password))[0] == 200
        assert (await ask(registry, ATTACKER, registry.password))[0] == 200
        assert (await ask(registry, ATTACKER, None))[0] == 401
        assert (await ask(registry, OWNER, "wrong"))[0] == 401
        moment.now += 1
        assert (await ask(registry, ATTACKER, "wrong"))[0] == 401
        assert (await ask(registry, ATTACKER, "wrong"))[1]["retry-after"] == "2"
    assert observe.metrics.logins_refused.labels("oci")._value.get() == before + 2
