"""What the service knows of an operation besides its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """`write` says which kind of transaction it needs; `prepare` turns a request's parameters into those of `run`.

    `settles`: a write that finds by itself that it was done before, also when others came after it, and so needs no
    stored answer (`answers`)."""

    run: Callable[..., Any]
    write: bool = False
    settles: bool = False
    prepare: Callable[..., dict[str, Any]] | None = None
