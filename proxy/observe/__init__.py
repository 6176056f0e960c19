"""What can be seen from outside: the log and the metrics, each set up in one place.

Promises: every metric is a row of `metrics_table`, and a test fails when a row is unused or a metric lives elsewhere;
every log line of a request carries its id and the facts that were noted about it; no value of a secret-looking key is
logged.

All processes of one server count in memory that they share, each under its own stable name, so that a restarted worker
goes on counting where its predecessor ended and the number of files is bounded. Must not know HTTP.

To add a metric: one line in `metrics_table`. Don't keep a metric or a labelled child at import time: `share_metrics`
makes them anew.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import select
import struct
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import prometheus_client
import prometheus_client.multiprocess
import prometheus_client.values
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from proxy.observe.metrics_table import Metrics as Metrics
from proxy.observe.metrics_table import Tally as Tally

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# What a key's name must not contain for its value to be written down.
_SECRET_WORDS = ("secret", "password", "authorization", "credential", "token", "signature", "plaintext")

_requests = itertools.count(1)
_threshold = logging.NOTSET
_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)
"""What was noted of the request that this task works for, its id included. One dictionary a request: setting a variable
for each fact takes five times as long."""

log: Any = structlog.get_logger()
"""`log.info("sentence", key=value)`; in a request its id and noted facts come along."""


_registry = CollectorRegistry()
metrics = Metrics(_registry)
_process = "solo"
_files: dict[str, int] = {}
"""Descriptors of prometheus_client's files by its names for them (kind, mode of a gauge, process)."""


def share_metrics(process: str, children: Sequence[str] = ()) -> None:
    """Count in shared memory, as `process` (a stable name without `_`, such as `worker0`).

    The supervisor calls it once before it forks `children`; a child then calls `name_process`. prometheus_client takes
    the folder of its files from a variable of its own, which is therefore set here; it is none.
    """
    global _registry
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = ""
    for each in (process, *children):
        for kind in ("counter", "histogram", "gauge_livesum", "gauge_mostrecent"):  # what `Metrics` makes
            name = f"{kind}_{each}.db"
            _files[name] = os.memfd_create(name)
            os.ftruncate(_files[name], _FILE_BYTES)
            _empty(name)
    name_process(process)
    prometheus_client.values.MmapedDict = prometheus_client.multiprocess.MmapedDict = _InMemory  # type: ignore[attr-defined]
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]
    _registry = CollectorRegistry()
    Metrics.__init__(metrics, _registry)


def name_process(process: str) -> None:
    """Count under another name from now on: what a freshly forked child does first."""
    global _process
    if "_" in process:
        raise ValueError("a process name holds no underscore: prometheus_client splits file names there")
    _process = process


def forget_process(process: str) -> None:
    """Drop the levels (not the counts) of a process that has died."""
    name = f"gauge_livesum_{process}.db"
    if name in _files:
        _empty(name)


def render_metrics() -> bytes:
    """Prometheus' text form, summed over all processes. Reads files: call it off the event loop."""
    if not _files:
        return prometheus_client.generate_latest(_registry)
    everyone = CollectorRegistry()
    everyone.register(_Shared())
    return prometheus_client.generate_latest(everyone)


_FILE_BYTES = 1 << 16  # at first; prometheus_client doubles it as labels come


class _InMemory(MmapedDict):
    """One of `_files`. prometheus_client maps files that are sparse: on a disk that is full, the first write to a new
    page of one ends the process by SIGBUS, in the midst of whatever it serves."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(f"/proc/self/fd/{_files[filename]}", read_mode)  # type: ignore[no-untyped-call]

    @staticmethod
    def read_all_values_from_file(filename: str) -> Any:
        return MmapedDict.read_all_values_from_file(f"/proc/self/fd/{_files[filename]}")  # type: ignore[no-untyped-call]


class _Shared(Collector):
    def collect(self) -> Iterable[Metric]:
        found: Iterable[Metric] = MultiProcessCollector.merge(list(_files))  # type: ignore[no-untyped-call]
        return found


def _empty(name: str) -> None:
    """Drop the values of a file that no process has mapped: it begins with the number of its bytes in use, which count
    themselves and some padding."""
    os.pwrite(_files[name], struct.pack("ii", 8, 0), 0)


def note(**facts: object) -> None:
    """Add facts (principal, repository, digest, …) to every later log line of this request, its last one included."""
    found = _facts.get()
    if found is None:
        _facts.set(facts)
    else:
        found.update(facts)


def begin_request(request_id: str) -> None:
    """Forget what an earlier request on this task noted and take this one's id."""
    _facts.set({"request_id": request_id})


def new_request_id() -> str:
    """32 hexadecimal digits: 16 of this process alone, and a count."""
    return f"{_request_prefix}{next(_requests):016x}"


_request_prefix = secrets.token_hex(8)


def _renew_prefix() -> None:
    """A forked child has its own. Asking for the process at each request would be a system call."""
    global _request_prefix
    _request_prefix = secrets.token_hex(8)


os.register_at_fork(after_in_child=_renew_prefix)


def noted() -> dict[str, Any]:
    """What has been noted of this request so far, its id included."""
    return dict(_facts.get() or {})


def request_id() -> str | None:
    """The id of the request this task works for."""
    found = _facts.get()
    return found.get("request_id") if found is not None else None


def configure_log(form: str, level: str, stream: TextIO | None = None) -> None:
    """Write lines to `stream` (standard error) as `json` or for a `console`; the standard library's loggers join in."""
    out = stream or sys.stderr
    renderer: Any = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    processors: list[Any] = [
        add_noted,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
        *([structlog.processors.format_exc_info] if form == "json" else []),
        renderer,
    ]
    global _threshold, _lines
    threshold = _threshold = logging.getLevelNamesMapping()[level.upper()]
    lines = _Lines(out)
    _lines = lines if form == "json" else None
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Joining()], level=max(threshold, logging.WARNING), force=True)


def is_info_written() -> bool:
    """Whether `log.info` goes anywhere: to be asked where a line's facts cost something."""
    return _threshold <= logging.INFO


class RequestLine:
    """What is logged of a request, laid out but for its id, the time and how long it took: laying out costs ten times
    what the rest does, and an answer that is given again says the same each time. The line is `log.info`'s own."""

    __slots__ = ("_facts", "_laid", "_to")

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """`facts` are all that the line says, what was noted included."""
        said = {key: value for key, value in facts.items() if key != "request_id"}
        self._to = _lines
        self._facts = said if self._to is None else {}
        self._laid = "" if self._to is None else json.dumps(hide_secrets(None, "info", said), default=repr)[1:-1]

    def write(self, request_id: str, seconds: float) -> None:
        """At once."""
        if self._to is None:
            log.info("request", **{"request_id": request_id, **self._facts}, seconds=round(seconds, 6))
        else:
            self._to.info(self._whole(request_id, seconds))

    def leave(self, request_id: str, seconds: float) -> None:
        """With the next line that is written, or with `write_left`, whichever comes first."""
        if self._to is None:
            self.write(request_id, seconds)
        else:
            self._to.leave(self._whole(request_id, seconds))

    def _whole(self, request_id: str, seconds: float) -> str:
        return (
            f'{{"request_id": "{request_id}", {self._laid}, "seconds": {round(seconds, 6)}, "event": "request", '
            f'"level": "info", "timestamp": "{datetime.now(UTC).isoformat()[:-6]}Z"}}'
        )


def write_left() -> None:
    """Write what `RequestLine.leave` has left."""
    if _lines is not None:
        _lines.write_left()


class _Lines:
    """Lines to a stream, in the order of their coming, some of them several at once: never more than a pipe takes in
    one piece, so that those of several processes don't mix."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._left: list[str] = []
        self._room = select.PIPE_BUF
        self._one_at_a_time = threading.RLock()

    def msg(self, message: str) -> None:
        with self._one_at_a_time:
            self.leave(message)
            self.write_left()

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg

    def leave(self, line: str) -> None:
        with self._one_at_a_time:
            size = len(line.encode()) + 1
            if size > self._room:
                self.write_left()
            self._room -= size
            self._left.append(line)

    def write_left(self) -> None:
        with self._one_at_a_time:
            lines, self._left, self._room = self._left, [], select.PIPE_BUF
            if lines:
                self._out.write("\n".join([*lines, ""]))
                self._out.flush()


_lines: _Lines | None = None
"""Where lines of JSON go; None before `configure_log`, and where somebody reads at a console."""


def add_noted(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: what was noted of the request, where the line itself says nothing else of it."""
    return {**(_facts.get() or {}), **event}


def hide_secrets(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: what a key's name calls secret is not written down."""
    for key in event:
        if _is_secret(key):
            event[key] = "***"
    return event


@lru_cache(1024)  # a request's line has twenty keys, always the same
def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS)


class _Joining(logging.Handler):
    """Hands a standard-library record to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
