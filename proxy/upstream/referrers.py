"""Reads an upstream's referrers of an image: by its referrers API, else from the index under the fallback tag.

    GET /v2/<name>/referrers/<digest>       200: an index, in pages
    else, GET …/manifests/sha256-<hex>      the index that clients maintain for registries without that API; 404: none

A registry that refuses the API is assumed not to have it; if it does not answer at all, that is the failure. Called by
`registry.mirror.referrers`. Source: OCI Distribution 1.1.1, "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
import re

from proxy.model.names import Digest, is_digest_like, parse_digest
from proxy.upstream.client import UpstreamClient
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

PAGES = 8  # read of one list
MOST = 256  # digests used of one list

_NEXT = re.compile(r'<([^>]{1,4096})>\s*;\s*rel="?next"?', re.ASCII)
_REFUSED = frozenset({UpstreamReason.MISSING, UpstreamReason.DENIED, UpstreamReason.WRONG})


async def referrers_of(client: UpstreamClient, repository: str, subject: Digest) -> list[str]:
    """Digests, each once, `MOST` at most. UpstreamFailed."""
    try:
        found = await _by_api(client, repository, subject)
    except UpstreamFailed as failed:
        if failed.reason not in _REFUSED:
            raise
        found = await _by_tag(client, repository, subject)
    return [digest for digest in dict.fromkeys(found) if digest != str(subject)][:MOST]


async def _by_api(client: UpstreamClient, repository: str, subject: Digest) -> list[str]:
    found: list[str] = []
    path = f"/v2/{client.upstream.path_of(repository)}/referrers/{subject}"
    for _ in range(PAGES):
        content, link = await client.document("referrers", path, repository)
        found += _listed(content)
        following = _NEXT.search(link)
        if following is None or len(found) >= MOST:
            break
        path = client.own_path(following[1], path)
    return found


async def _by_tag(client: UpstreamClient, repository: str, subject: Digest) -> list[str]:
    tag = f"{subject.algorithm}-{subject.hex}"[:128]
    try:
        return _listed((await client.manifest(repository, tag)).content)
    except UpstreamFailed as failed:
        if failed.reason is UpstreamReason.MISSING:
            return []
        raise


def _listed(content: bytes) -> list[str]:
    """The digests of an index's entries."""
    try:
        entries = json.loads(content)["manifests"] or []
        named = [entry["digest"] for entry in entries]
        return [str(parse_digest(each)) for each in named if is_digest_like(each)]
    except Exception:  # of any shape
        raise UpstreamFailed(UpstreamReason.WRONG, "wrong-index", "its list of referrers is no index") from None
