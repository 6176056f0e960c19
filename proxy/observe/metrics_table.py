"""Every metric there is: its name, what it counts, its labels. `observe` shares the table between processes.

To add a metric: one line in `Metrics`, and `observe.metrics.<name>.inc()` where the thing happens. A test fails when a
row is unused, or when a metric is made elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a cached answer on loopback (0.1 ms) to a layer of 50 GB on a slow line.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300, 1800)


class Metrics:
    """The table: attribute = kind(name, what it counts, labels…)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=registry)

        def seconds(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(name, what, labels, registry=registry, buckets=SECONDS)

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
        self.upstream_requests = counter(
            "wharfage_upstream_requests_total", "Requests made of upstream registries", "upstream", "kind", "outcome"
        )
        self.upstream_seconds = seconds(
            "wharfage_upstream_request_seconds", "Until an upstream's answer was read whole", "upstream", "kind"
        )
        self.mirror_pulls = counter(
            "wharfage_pull_through_total",
            "Manifests under rules: hit, refreshed, imported, stale",
            "outcome",
        )
        self.mirror_fetches = counter(
            "wharfage_pull_through_fetches_total",
            "Fetches of layers: stored, failed, resumed, taken over, source lost; and far ranges",
            "outcome",
        )
        self.mirror_bytes = counter(
            "wharfage_pull_through_bytes_total", "Bytes of layers that came from upstreams", "upstream"
        )
        self.mirror_followed_bytes = counter(
            "wharfage_pull_through_followed_bytes_total",
            "Bytes of layers being fetched that came from another worker or node, or from the store",
            "source",
        )
        self.mirror_waiters = level(
            "wharfage_pull_through_waiters", "Readers of layers being fetched: clients, workers and nodes"
        )
        self.mirror_evicted = counter(
            "wharfage_pull_through_evicted_total", "Images removed from pull-through caches for their size", "reason"
        )
        self.sweep_removed = counter("wharfage_sweep_removed_total", "Objects and rows the sweep removed", "kind")
        self.sweep_rows_removed = counter("wharfage_sweep_rows_removed_total", "Rows the sweep removed", "kind")
        self.sweep_corrected = counter(
            "wharfage_sweep_corrected_total", "Layers that the sweep kept for their images, against wrong counters"
        )
        self.jobs = counter("wharfage_jobs_total", "Jobs of the queue, by what became of an attempt", "kind", "outcome")
        self.events = counter(
            "wharfage_events_total", "Attempts to deliver an event, by what became of them", "outcome"
        )
        self.jobs_queued = latest(
            "wharfage_jobs_queued", "Jobs in the queue, of the whole installation", "kind", "state"
        )
        self.jobs_oldest_seconds = latest(
            "wharfage_jobs_oldest_seconds", "Age of the oldest job in the queue", "kind", "state"
        )
        self.replications = counter(
            "wharfage_replications_total", "Images replicated, or their deletions, by outcome", "region", "outcome"
        )
        self.replication_bytes = counter(
            "wharfage_replication_bytes_total", "Bytes of layers sent to other regions", "region"
        )
        self.replication_waiting = latest(
            "wharfage_replication_waiting", "Images and deletions that wait to be replicated", "region"
        )
        self.replication_lag_seconds = latest(
            "wharfage_replication_lag_seconds", "Age of the oldest that waits to be replicated", "region"
        )
        self.lifecycle_images = counter(
            "wharfage_lifecycle_images_total", "Images that lifecycle policies expired or archived", "action"
        )
        self.archive_objects = counter(
            "wharfage_archive_objects_total", "Layers moved to the archive or back to the store", "to"
        )
        self.archive_bytes = counter("wharfage_archive_bytes_total", "Stored bytes of layers that were moved", "to")
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
        self._buckets = [0] * (len(SECONDS) + 1)

    def add(self, seconds: float) -> bool:
        """Whether it is the first one since `settle`."""
        self._number += 1
        self._seconds += seconds
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        return self._number == 1

    def settle(self) -> None:
        for counter in self._counters:
            counter.inc(self._number)
        self._took._sum.inc(self._seconds)  # what `observe` does, for many at once
        for bucket, number in enumerate(self._buckets):
            if number:
                self._took._buckets[bucket].inc(number)
        self._number, self._seconds, self._buckets = 0, 0.0, [0] * len(self._buckets)
