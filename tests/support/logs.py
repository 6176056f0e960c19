"""The log as a server has it, for a while: the standard library's loggers join in, and let go again at the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TextIO

import structlog

from proxy import observe


@contextlib.contextmanager
def log_to(stream: TextIO, form: str) -> Iterator[None]:
    """`form` is json or console. What was set up before is put back, pytest's own handlers too."""
    root = logging.getLogger()
    before, handlers, level, lines = structlog.get_config(), root.handlers[:], root.level, observe._lines
    observe.configure_log(form, "info", stream)
    try:
        yield
    finally:
        structlog.configure(**before)
        observe._lines = lines
        root.handlers[:] = handlers
        root.setLevel(level)
