"""What every command shares: the flags of its configuration, and how a failure becomes one line and a status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy.config import loader
from proxy.config.settings import Config
from proxy.model.errors import Failure, OperatorError

_F = Callable[..., Any]
T = TypeVar("T")


def shared(function: _F) -> _F:
    """The flags of every command that has a configuration."""
    for option in (
        click.option("--data", metavar="DIR", help="The data directory.  [./data]"),
        click.option(
            "--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="A TOML file of settings."
        ),
    ):
        function = option(function)
    return function


def load(file: Path | None, data: str | None, flags: dict[str, Any], more: dict[str, Any] | None = None) -> Config:
    named = {f"server.{name}": value for name, value in flags.items()} | {"server.data": data} | (more or {})
    return checked(lambda: loader.load(file, named))


def checked(run: Callable[[], T], failed: int = 1) -> T:
    """What `run` returns. A failure that an operator can mend becomes one line and an exit status: that of the error
    (2 for settings), else `failed`."""
    try:
        return run()
    except (OperatorError, Failure, OSError) as error:
        click.echo(f"wharfage: {error}", err=True)
        status = error.exit_status if isinstance(error, OperatorError) else None
        sys.exit(failed if status is None else status)
