"""Where things stand in a policy's text: the principals it names, and its statements.

IAM binds a stored policy to the unique ids of the users and roles it names. When one is deleted, its ARN could come to
mean somebody else; from then on the policy is shown with the id in the ARN's place, and is the same text otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from proxy.auth.policy.documents import compile_document


def principals_of(text: str) -> list[str]:
    """The ARNs of users, roles and roles' sessions in Principal and NotPrincipal, in order, each once. PolicyError."""
    named = frozenset[str]().union(
        *(each.principals.bound for each in compile_document(text).statements if each.principals is not None)
    )
    return list(dict.fromkeys(arn for _, _, arn in _principal_texts(text) if arn in named))


def rebound_text(text: str, gone: Mapping[str, str]) -> str:
    """`text` with the ids that `gone` has for principals' ARNs in their place, all else verbatim. PolicyError."""
    compile_document(text)
    parts, at = [], 0
    for start, end, arn in _principal_texts(text):
        if arn in gone:
            parts += [text[at:start], json.dumps(gone[arn])]
            at = end
    return "".join((*parts, text[at:]))


def statement_spans(text: str) -> list[tuple[int, int]]:
    """Where each statement begins and ends, in order; `text` has been compiled."""
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    for mark, path in _marks(text):
        if mark[0] == "{":
            starts.append(mark.start())
        elif mark[0] == "}":
            start = starts.pop()
            if path in (["Statement"], ["Statement", None]):
                spans.append((start, mark.end()))
    return spans


# A string, a bracket, a comma or a colon: all that has a place in the structure; numbers and words have none here.
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]')


def _principal_texts(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each text stands that is a value under Principal or NotPrincipal of a statement."""
    for mark, path in _marks(text):
        if mark[0][0] == '"' and not _PRINCIPAL.isdisjoint(path):
            yield mark.start(), mark.end(), json.loads(mark[0])


def _marks(text: str) -> Iterator[tuple[re.Match[str], list[str | None]]]:
    """Brackets, and the texts that are values, each with the path of what it lies in: of every object that is open the
    member at hand, None for a list. `text` has been parsed before."""
    path: list[str | None] = []
    is_name = False
    for mark in _MARKS.finditer(text):
        match mark[0]:
            case "{" | "[":
                yield mark, path
                path.append(None)
                is_name = mark[0] == "{"
            case "}" | "]":
                path.pop()
                yield mark, path
            case ":" | "," as shape:
                is_name = shape == "," and path[-1] is not None
            case name if is_name:
                path[-1] = json.loads(name)
            case _:
                yield mark, path


_PRINCIPAL = frozenset(("Principal", "NotPrincipal"))
