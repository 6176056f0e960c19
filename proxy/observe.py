"""What can be seen from outside: the log and the metrics, each set up in one place.

Promises: every metric is a row of `Metrics`, and a test fails when a row is unused or a metric lives elsewhere; every
log line of a request carries its id and the facts that were noted about it; no value of a secret-looking key is logged.

All processes of one server count in memory that they share, each under its own stable name, so that a restarted worker
goes on counting where its predecessor ended and the number of files is bounded. Must not know HTTP.

To add a metric: one line in `Metrics`, and `observe.metrics.<name>.inc()` where the thing happens. Don't keep a metric
or a labelled child at import time: `share_metrics` makes them anew.
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
from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import prometheus_client
import prometheus_client.multiprocess
import prometheus_client.values
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

# From a cached answer on loopback (0.1 ms) to a layer of 50 GB on a slow line.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300, 1800)

# What a key's name must not contain for its value to be written down.
_SECRET_WORDS = ("secret", "password", "authorization", "credential", "token", "signature", "plaintext")

_requests = itertools.count(1)
_threshold = logging.NOTSET
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log: Any = structlog.get_logger()
"""`log.info("sentence", key=value)`; in a request its id and noted facts come along."""


class Metrics:
    """The table: attribute = kind(name, what it counts, labels…)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=registry)

        def seconds(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(name, what, labels, registry=registry, buckets=_SECONDS)

        def level(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, registry=registry, multiprocess_mode="livesum")

        def latest(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, registry=registry, multiprocess_mode="mostrecent")

        self.http_requests = counter("wharfage_http_requests_total", "Requests answered", "door", "method", "status")
        self.http_request_seconds = seconds("wharfage_http_request_seconds", "From request line to last byte", "door")
        self.http_requests_running = level("wharfage_http_requests_running", "Requests being answered now")
        self.http_answered_again = counter(
            "wharfage_http_answered_again_total", "Requests whose answer was kept from the same request, and still held"
        )
        self.http_rejected = counter(
            "wharfage_http_rejected_total",
            "Connections cut: no whole request came, or its answer was not taken",
            "reason",
        )
        self.blob_bytes = counter("wharfage_blob_bytes_total", "Plain bytes of blobs, in and out", "direction")
        self.blob_redirects = counter("wharfage_blob_redirects_total", "Blobs fetched from the store itself, by a link")
        self.frames_rejected = counter("wharfage_frames_rejected_total", "Stored frames that did not authenticate")
        self.blobs_quarantined = counter("wharfage_blobs_quarantined_total", "Blobs hidden until pushed again")
        self.uploads = counter("wharfage_uploads_total", "Upload sessions ended", "outcome")
        self.sweep_removed = counter("wharfage_sweep_removed_total", "Objects and rows the sweep removed", "kind")
        self.sweep_rows_removed = counter("wharfage_sweep_rows_removed_total", "Rows the sweep removed", "kind")
        self.sweep_corrected = counter(
            "wharfage_sweep_corrected_total", "Layers that the sweep kept for their images, against wrong counters"
        )
        self.audit_events = counter("wharfage_audit_events_total", "Events written to the audit trail")
        self.audit_lost = counter("wharfage_audit_lost_total", "Events that the audit trail could not take")
        self.audit_omitted = counter("wharfage_audit_omitted_total", "Events without a caller that were only counted")
        self.s3_requests = counter(
            "wharfage_s3_requests_total", "Requests made of the S3 store", "operation", "outcome"
        )
        self.s3_request_seconds = seconds("wharfage_s3_request_seconds", "From request to answer", "operation")
        self.kms_requests = counter("wharfage_kms_requests_total", "Requests made of KMS", "operation", "outcome")
        self.kms_request_seconds = seconds("wharfage_kms_request_seconds", "From request to answer", "operation")
        self.s3_part_bytes = level("wharfage_s3_part_bytes", "Bytes of part buffers held, of [storage] buffers_mib")
        self.s3_part_waiters = level("wharfage_s3_part_waiters", "Pushes that wait for a part's buffer")
        self.pull_waiters = level("wharfage_pull_waiters", "Pulls that wait for a buffer")
        self.pull_wait_seconds = seconds("wharfage_pull_wait_seconds", "Pulls' waits for a buffer")
        self.cache_bytes = counter(
            "wharfage_cache_bytes_total",
            "Stored bytes read through the cache: there already (hit), fetched while they were read (miss), or read "
            "past it because it could not take them (behind)",
            "result",
        )
        self.cache_filled_bytes = counter("wharfage_cache_filled_bytes_total", "Bytes fetched from the store to keep")
        self.cache_fills = counter("wharfage_cache_fills_total", "Runs of extents fetched", "outcome")
        self.cache_wait_seconds = seconds("wharfage_cache_wait_seconds", "Readers' waits for what was being fetched")
        self.cache_held_bytes = latest("wharfage_cache_held_bytes", "Disk that the cache takes, as last counted")
        self.cache_evicted = counter("wharfage_cache_evicted_total", "What made room in the cache", "kind")
        self.cache_dropped = counter("wharfage_cache_dropped_total", "Cached bytes that were wrong, and dropped")
        self.throttled = counter("wharfage_throttled_total", "Requests refused for their rate", "operation")
        self.logins_failed = counter("wharfage_logins_failed_total", "Passwords and signatures that failed", "door")
        self.logins_refused = counter(
            "wharfage_logins_refused_total", "Logins refused for those that failed before", "door"
        )
        self.metadata_cache = counter("wharfage_metadata_cache_total", "Answers asked of the metadata cache", "result")
        self.deferred_writes = counter(
            "wharfage_deferred_writes_total", "Writes left to the background by reads, and failed batches", "outcome"
        )
        self.grace_answers = counter(
            "wharfage_grace_answers_total", "Kept answers used while no metadata service reached its database"
        )
        self.metadata_clock_offset = latest(
            "wharfage_metadata_clock_offset_seconds",
            "How far the metadata service's clock is ahead of its database's; below 0: behind",
        )
        self.metadata_unasked_services = latest(
            "wharfage_metadata_unasked_services",
            "Other metadata services that this one cannot ask: above 0 there is no outage_grace",
        )
        self.lease_refused = level(
            "wharfage_metadata_lease_refused", "Whether this node is granted no lease because it confirms changes late"
        )
        self.lagging_nodes = level(
            "wharfage_metadata_lagging_nodes", "Nodes that this service grants no lease because they lag", "node"
        )
        self.worker_restarts = counter("wharfage_worker_restarts_total", "Processes restarted after they died", "role")


class Tally:
    """Requests of one kind, counted together: a metric takes a microsecond each time, and such a request has four.

    `settle` puts into the metrics what `add` has taken since; nobody sees it there before."""

    __slots__ = ("_buckets", "_counters", "_number", "_seconds", "_took")

    def __init__(self, counters: Sequence[Counter], took: Histogram) -> None:
        """Children, where a metric has labels."""
        self._counters = counters
        self._took = took
        self._number = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_SECONDS) + 1)

    def add(self, seconds: float) -> bool:
        """Whether it is the first one since `settle`."""
        self._number += 1
        self._seconds += seconds
        self._buckets[bisect_left(_SECONDS, seconds)] += 1
        return self._number == 1

    def settle(self) -> None:
        for counter in self._counters:
            counter.inc(self._number)
        self._took._sum.inc(self._seconds)  # what `observe` does, for many at once
        for bucket, number in enumerate(self._buckets):
            if number:
                self._took._buckets[bucket].inc(number)
        self._number, self._seconds, self._buckets = 0, 0.0, [0] * len(self._buckets)


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
    structlog.contextvars.bind_contextvars(**facts)


def begin_request(request_id: str) -> None:
    """Forget what an earlier request on this task noted and take this one's id."""
    _request_id.set(request_id)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


def new_request_id() -> str:
    """32 hexadecimal digits: 16 of this process alone, and a count."""
    return f"{_requests_of(os.getpid())}{next(_requests):016x}"


@lru_cache(1)
def _requests_of(process: int) -> str:
    """A forked child begins its own."""
    return secrets.token_hex(8)


def noted() -> dict[str, Any]:
    """What has been noted of this request so far, its id included."""
    return dict(structlog.contextvars.get_contextvars())


def request_id() -> str | None:
    """The id of the request this task works for."""
    return _request_id.get()


def configure_log(form: str, level: str, stream: TextIO | None = None) -> None:
    """Write lines to `stream` (standard error) as `json` or for a `console`; the standard library's loggers join in."""
    out = stream or sys.stderr
    renderer: Any = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
