"""What rows know of images that came from an upstream, and are not all here. Pure records."""

from __future__ import annotations

from dataclasses import dataclass

PULL_THROUGH = "pull-through"
"""Who opened an upload session that an import fills, in the place of a principal's id: such a session's commit gives
the images that wait for the blob their hold on it."""

FETCH_KIND = "pull-through-image"
"""The kind of jobs that fetch an image with its layers."""

SIZE_KIND = "pull-through-size"
"""The kind of jobs that keep what a rule has brought to its size."""


@dataclass(frozen=True, slots=True)
class AbsentBlob:
    """A blob that a manifest of the repository names and that is not here: as its descriptor says."""

    digest: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class MirroredTag:
    """`digest` is where the tag pointed when the upstream was asked last, at `checked_at` (epoch seconds). A tag that
    points elsewhere by now was moved here, by a person: it is not the upstream's any more."""

    digest: str
    checked_at: float


@dataclass(frozen=True, slots=True)
class FetchLease:
    """Who fetches a blob from its upstream: `holder` is a name made for that one fetch, `address` where other workers
    of its node may read it as it comes, `node` where other nodes may (empty: they cannot). It ends by itself at `until`
    (epoch seconds of the database). `upload_id`: the session with what was kept so far, also by a holder before."""

    holder: str
    address: str
    until: float
    node: str = ""
    upload_id: str = ""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image that came from an upstream. `used_at`: when it came, or was pulled the last time as far as recorded."""

    repository: str
    digest: str
    used_at: float


@dataclass(frozen=True, slots=True)
class EvictedImage:
    """What became of one that was to go: `kept_for` is empty where it is gone, else "pulled" since, a "referrer" that
    somebody pushed here, or an "index" that lists it. `freed` counts the layers that nothing else needs."""

    digest: str
    tags: tuple[str, ...]
    freed: int
    kept_for: str
    is_index: bool = False
