"""The part of `contract.Metadata` that images of an upstream need. Implemented as the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.model.mirror import AbsentBlob, CachedImage, EvictedImage, FetchLease, MirroredTag
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

    async def note_import_failed(
        self, account: str, repository: str, *, reference: str, code: str, reason: str
    ) -> None:
        """Of a tag or digest: an event says so where a rule of events matches."""

    async def request_image(
        self, account: str, repository: str, *, reference: str, platforms: Sequence[str], share: str
    ) -> None:
        """A job is to keep an image fresh, with its layers. `share` is the prefix of its rule."""

    async def request_trim(self, account: str, *, prefix: str) -> None:
        """A job is to keep what the rule of that prefix has brought to its size."""

    async def repository_sizes(self, account: str, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """Names beyond `after`, with the bytes that count for each."""

    async def held_bytes(self, account: str, repository: str, *, after: int, limit: int) -> tuple[int, int]:
        """Bytes of a page of layers that images need, and where the next page begins (0: nowhere)."""

    async def cached_images(
        self, account: str, repository: str, *, after: str, limit: int
    ) -> tuple[Sequence[CachedImage], str]:
        """Those of a page of images that came from an upstream, and where the next page begins (empty: nowhere)."""

    async def evict_images(
        self, account: str, repository: str, *, digests: Sequence[str], unused_since: float
    ) -> Sequence[EvictedImage]:
        """Remove images that came from an upstream, and that nobody has pushed here or pulled since."""

    async def absent_blob(self, account: str, repository: str, digest: str) -> AbsentBlob | None:
        """A blob that a manifest of the repository names and that is not here."""

    async def referrers_checked(self, account: str, repository: str, digest: str) -> float | None:
        """When the upstream was asked what refers to an image; None: never, or no such image is here."""

    async def note_referrers_checked(self, account: str, repository: str, digest: str) -> None:
        """It was, now. Nothing where the image is gone."""

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
