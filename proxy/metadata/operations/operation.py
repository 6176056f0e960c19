"""What the service knows of an operation besides its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """`write` says which kind of transaction it needs; `prepare` turns a request's parameters into those of `run`.

    `settles`: a write that finds by itself that it was done before, also when others came after it, and so needs no
    stored answer (`answers`). `durable` False: what it says may be forgotten by a machine that loses its power, with
    all who were told (`store.Database.write`)."""

    run: Callable[..., Any]
    write: bool = False
    settles: bool = False
    durable: bool = True
    prepare: Callable[..., dict[str, Any]] | None = None
