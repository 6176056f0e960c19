"""Policy variables: `${aws:username}`, with a default `${aws:PrincipalTag/team, 'none'}`; `${*}`, `${?}`, `${$}`.

A substituted value is literal text: a `*` in a tag is a star, not a wildcard. If a key is absent or has several values,
its variable has no value, and the text that contains it matches nothing; an Allow with a negated element (NotResource,
StringNotEquals) does not apply then. Only documents of version 2012-10-17 have variables; in others `${` is text.

Source: IAM User Guide, "IAM policy elements: Variables and tags".
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.auth.policy.context import Context
from proxy.auth.policy.errors import PolicyError
from proxy.auth.policy.matching import Token, matcher, wildcards

_LITERAL = ("*", "?", "$")


@dataclass(frozen=True, slots=True)
class Variable:
    """`key` is `name` in lower case; `default` None: none was given."""

    key: str
    name: str
    default: str | None


class Template:
    """A policy's text with variables.

    `keys` are the condition keys that it reads, `names` the same as spelled in it."""

    __slots__ = ("_parts", "_static", "keys", "names", "text")

    def __init__(self, text: str, *, variables: bool, wild: bool) -> None:
        """PolicyError for a malformed variable. `wild`: `*` and `?` outside variables are wildcards."""
        self.text = text
        self._parts = _parts(text, wild) if variables else _plain(text, wild)
        found = [part for part in self._parts if isinstance(part, Variable)]
        self.keys = frozenset(part.key for part in found)
        self.names = tuple(part.name for part in found)
        plain = [part for part in self._parts if not isinstance(part, Variable)]
        self._static = matcher(plain) if len(plain) == len(self._parts) else None

    def tokens(self, context: Context) -> list[Token] | None:
        """The tokens with all variables substituted; None if one has no value."""
        tokens: list[Token] = []
        for part in self._parts:
            if isinstance(part, Variable):
                values = context.get(part.key)
                value = values[0] if values is not None and len(values) == 1 else part.default
                if value is None:
                    return None
                tokens.append(value)
            else:
                tokens.append(part)
        return tokens

    def matches(self, text: str, context: Context) -> bool:
        """Whether `text` matches with all variables substituted; never if one has no value."""
        if self._static is not None:
            return self._static(text)
        tokens = self.tokens(context)
        return tokens is not None and matcher(tokens)(text)

    def missing(self, context: Context) -> list[str]:
        """The variables that have no value."""
        found = (part for part in self._parts if isinstance(part, Variable) and part.default is None)
        return [part.name for part in found if len(context.get(part.key) or ()) != 1]


def _plain(text: str, wild: bool) -> list[Token | Variable]:
    return list(wildcards(text)) if wild else [text]


def _parts(text: str, wild: bool) -> list[Token | Variable]:
    parts: list[Token | Variable] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        parts += _plain(text[at:start], wild)
        part, at = _variable(text, start)
        parts.append(part)
    return parts + _plain(text[at:], wild)


def _variable(text: str, start: int) -> tuple[Token | Variable, int]:
    """The variable that begins at `start`, and its end."""
    end = text.find("}", start)
    comma = text.find(",", start, end)
    if comma >= 0:
        opened = text.find("'", comma)
        closed = text.find("'", opened + 1) if opened >= 0 else -1
        end = text.find("}", closed) if closed >= 0 else -1
        if end < 0 or text[comma + 1 : opened].strip() or text[closed + 1 : end].strip():
            raise PolicyError(f"A policy variable's default must be in single quotes: {text[start : start + 64]}")
        default, key = text[opened + 1 : closed], text[start + 2 : comma].strip()
    else:
        default, key = None, text[start + 2 : max(end, start + 2)].strip()
    if not key or "${" in key:
        raise PolicyError(f"A policy variable is not well formed: {text[start : start + 64]}")
    if default is None and key in _LITERAL:
        return key, end + 1
    return Variable(key.lower(), key, default), end + 1
