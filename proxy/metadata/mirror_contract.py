"""The part of `contract.Metadata` that images of an upstream need. Implemented as the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.mirror import AbsentBlob, FetchLease, MirroredTag
from proxy.model.records import CreateOnPush, PushedManifest


class MirrorPort(Protocol):
    """Images of an upstream."""

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
        platforms: Sequence[str] = (),
    ) -> PushedManifest:
        """As `put_manifest`, of a manifest whose blobs and children may come later; `tags` are marked as checked. Of an
        index, a job is to fetch the images for `platforms`."""

    async def request_image(
        self, account: str, repository: str, *, reference: str, platforms: Sequence[str], share: str
    ) -> None:
        """A job is to keep an image fresh, with its layers. `share` is the prefix of its rule."""

    async def absent_blob(self, account: str, repository: str, digest: str) -> AbsentBlob | None:
        """A blob that a manifest of the repository names and that is not here."""

    async def mirrored_tag(self, account: str, repository: str, tag: str) -> MirroredTag | None:
        """What the upstream said of a tag, and when; None of one that came from nowhere else."""

    async def note_tag_checked(
        self, account: str, repository: str, tag: str, *, digest: str, at: float | None = None
    ) -> None:
        """The upstream says that the tag is for `digest`, now or at `at`. RepositoryNotFound."""

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
        node: str = "",
        upload_id: str = "",
    ) -> FetchLease:
        """The lease on fetching a blob: `holder`'s, unless another's lives that is not that of `instead`. Without
        `upload_id` the session of the lease before stays."""

    async def end_fetch(
        self, account: str, repository: str, digest: str, *, holder: str, resumable: bool = False
    ) -> None:
        """Let the lease go; its session is remembered for a while where it is `resumable`. Idempotent."""
