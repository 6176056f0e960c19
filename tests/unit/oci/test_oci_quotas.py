"""What docker is told where a quota is full."""

from __future__ import annotations

from pathlib import Path

from proxy.model.quotas import Quotas
from support.oci_requests import push_image
from support.whole_registry import ACCOUNT, whole_registry


async def test_a_push_that_would_make_one_repository_too_many_is_denied(tmp_path: Path) -> None:
    """403 with ECR's text, which no client tries again; those that are there take pushes as before."""
    async with whole_registry(tmp_path, quotas=Quotas(repositories=1)) as registry, registry.client() as http:
        await push_image(http, "team/app", "v1", [b"a layer"])
        async with http.post("/v2/team/other/blobs/uploads/") as answer:
            said = (
                f"The registry with id '{ACCOUNT}' already has the maximum allowed number of repositories which is '1'"
            )
            assert answer.status == 403
            assert await answer.json() == {"errors": [{"code": "DENIED", "message": said}]}
        await push_image(http, "team/app", "v2", [b"another layer"])
