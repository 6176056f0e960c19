"""The canonical request of SigV4: the form of a request that client and server hash.

Source: "Create a signed AWS API request" (AWS IAM User Guide), the rules for every service but S3. Clients spell some
queries in two ways; `canonical_queries` returns both. Both mean the same parameters, so accepting both is safe. Used by
`sigv4`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import quote, unquote_to_bytes

_UNRESERVED = "-_.~"


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, Sequence[str]], signed: Iterable[str], body_sha256: str
) -> bytes:
    """`path` is raw, `query` canonical; `headers` by lower-case name, each with all its values in the order they
    came."""
    names = sorted(signed)
    lines = [f"{name}:{','.join(' '.join(value.split()) for value in headers[name])}" for name in names]
    text = "\n".join((method, canonical_path(path), query, *lines, "", ";".join(names), body_sha256))
    return text.encode("utf-8", "surrogateescape")


def canonical_path(path: str) -> str:
    """Dot segments resolved, slashes merged, then encoded once more."""
    if not path:
        return "/"
    return quote(_resolved(path).encode("utf-8", "surrogateescape"), safe="/" + _UNRESERVED)


def canonical_query(query: str, without: Collection[str] = ()) -> str:
    """Names and values decoded, encoded again by RFC 3986, sorted by encoded name, then by encoded value.

    A `+` is a space, as in a form and in AWS's published test. Parameters named in `without` are left out.
    """
    return _joined((_encoded(name), _encoded(value)) for name, value in _pairs(query, without))


def canonical_queries(query: str, without: Collection[str] = ()) -> tuple[str, ...]:
    """`canonical_query`, and if it differs the parameters sorted as they were spelled, which is how botocore signs a
    URL."""
    anew = canonical_query(query, without)
    spelled = _joined(_pairs(query, without))
    return (anew,) if spelled == anew else (anew, spelled)


def _pairs(query: str, without: Collection[str]) -> list[tuple[str, str]]:
    found = []
    for piece in query.split("&") if query else ():
        name, _, value = piece.partition("=")
        if not without or name not in without:
            found.append((name, value))
    return found


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _resolved(path: str) -> str:
    """RFC 3986 remove_dot_segments, with empty segments dropped; a closing slash stays."""
    out: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del out[-1:]
        elif part and part != ".":
            out.append(part)
    return "/" + "/".join(out) + ("/" if path.endswith("/") and out else "")


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")), safe=_UNRESERVED)
