"""The calls of `mirror_contract.Mirrored`, over HTTP: a part of `client.MetadataClient`."""

# mypy: disable-error-code="no-any-return"
# (`wire.read` returns what the annotation passed to it says; the type system has no way to write that down.)

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.model.mirror import AbsentBlob, FetchLease, MirroredTag
from proxy.model.records import CreateOnPush, PushedManifest


class MirrorCalls:
    _ask: Callable[..., Awaitable[Any]]

    async def import_manifest(
        self,
        account: str,
        repository: str,
        *,
        content: bytes,
        media_type: str | None,
        digest: str,
        tags: Sequence[str],
        create: CreateOnPush,
    ) -> PushedManifest:
        asked = {"media_type": media_type, "digest": digest, "tags": tags, "create": create}
        return await self._ask(
            "import_manifest", PushedManifest, account=account, repository=repository, content=content, **asked
        )

    async def absent_blob(self, account: str, repository: str, digest: str) -> AbsentBlob | None:
        return await self._ask("absent_blob", AbsentBlob | None, account=account, repository=repository, digest=digest)

    async def mirrored_tag(self, account: str, repository: str, tag: str) -> MirroredTag | None:
        return await self._ask("mirrored_tag", MirroredTag | None, account=account, repository=repository, tag=tag)

    async def note_tag_checked(
        self, account: str, repository: str, tag: str, *, digest: str, at: float | None = None
    ) -> None:
        asked = {"account": account, "repository": repository, "tag": tag, "digest": digest, "at": at}
        await self._ask("note_tag_checked", None, **asked)

    async def lease_fetch(
        self,
        account: str,
        repository: str,
        digest: str,
        *,
        holder: str,
        address: str,
        seconds: float,
        instead: str = "",
    ) -> FetchLease:
        asked = {"holder": holder, "address": address, "seconds": seconds, "instead": instead}
        return await self._ask(
            "lease_fetch", FetchLease, account=account, repository=repository, digest=digest, **asked
        )

    async def end_fetch(self, account: str, repository: str, digest: str, *, holder: str) -> None:
        await self._ask("end_fetch", None, account=account, repository=repository, digest=digest, holder=holder)
