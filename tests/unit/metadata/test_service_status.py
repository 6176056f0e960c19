"""What a metadata service on TCP says to whoever has no secret: how it is, and nothing of its rows."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from proxy.metadata.client.client import MetadataClient
from proxy.metadata.service.service import start_service
from proxy.model.errors import Code
from support.metadata import ACCOUNT, REPOSITORY, World

SECRET = "a long enough shared secret"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


async def test_without_the_secret_it_says_how_it_is_and_nothing_of_its_rows(tmp_path: Path) -> None:
    """A probe has none: `/readyz` says whether the database answers, `/metrics` counts. All else is refused."""
    service = await start_service(database=tmp_path / "m.db", listen="127.0.0.1:0", secret=SECRET)
    client = MetadataClient.connect(f"http://{service.address}", secret=SECRET)
    try:
        await service.bootstrap(ACCOUNT, access_key_id="AKIASECRETLY", sealed_secret=b"sealed")
        await World(client).commit("layer")
        async with aiohttp.ClientSession(f"http://{service.address}") as session:
            async with session.get("/readyz") as answer:
                assert answer.status == 200
                assert await answer.json() == {"ready": True, "database": "ok", "warnings": []}
            async with session.get("/metrics") as answer:
                assert answer.status == 200
                text = await answer.text()
            for path in ("/", "/healthz", "/v1/", "/v1/watch", "/v1/accounts", "/v1/begin_upload", "/readyz/more"):
                for method in METHODS:
                    async with session.request(method, path) as answer:
                        refused = answer.status in (404, 405) or Code.ACCESS_DENIED in await answer.text()
                        assert refused or (method == "HEAD" and answer.status == 400), f"{method} {path}"
    finally:
        await client.close()
        await service.close()
    assert "wharfage_" in text
    for word in (ACCOUNT, REPOSITORY, "AKIASECRETLY", SECRET, str(tmp_path)):
        assert word not in text, "no names, keys or places"
