"""What every command shares: the flags of its configuration, and how a failure becomes one line and a status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy.config import loader
from proxy.config.loader import ConfigError
from proxy.config.settings import Config

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
    """What `run` returns; failures that an operator can mend become one line and a status: 2 for settings, else
    `failed`."""
    try:
        return run()
    except ConfigError as error:
        click.echo(f"wharfage: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        # Told apart by name, so that `wharfage --help` need not load the rooms that raise them.
        if type(error).__name__ not in _PLAIN | _SETTINGS and not isinstance(error, OSError):
            raise
        click.echo(f"wharfage: {error}", err=True)
        sys.exit(2 if type(error).__name__ in _SETTINGS else failed)


_PLAIN = {"DataDirectoryBusy", "KeyFileError", "Failure", "CannotVisit", "BackupError", "SealError", "CannotLoad"}
_SETTINGS = {"WrongLoad"}
