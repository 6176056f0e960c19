"""A blob of a pull-through cache that is stored while it is looked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from proxy.model.errors import Code, Failure
from proxy.oci import blobs as door

DIGEST = f"sha256:{'a' * 64}"


async def test_a_blob_that_is_stored_between_the_two_look_ups_is_found() -> None:
    """It is missing in the store, and then is no longer one that is to be fetched."""
    stored = SimpleNamespace(digest=DIGEST)
    answers: list[Any] = [Failure(Code.LAYERS_NOT_FOUND, "no such layer"), stored]

    async def find(*names: str) -> Any:
        found = answers.pop(0)
        if isinstance(found, Failure):
            raise found
        return found

    async def coming(*names: str) -> None:
        return None

    async def covers(*names: str) -> bool:
        return True

    services = SimpleNamespace(
        blobs=SimpleNamespace(find=find, content=None),
        mirror=SimpleNamespace(coming=coming, covers=covers),
        stall_seconds=1.0,
    )
    call: Any = SimpleNamespace(
        services=services, reference=DIGEST, account="1", repository="far/app", request=None, record=None, headers={},
        validity=None,
    )  # fmt: skip
    found = await door._pull(call)
    assert found.blob is stored
