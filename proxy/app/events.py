"""Builds, from `[events]`, the targets of events and the job that delivers them. Called by `worker` and `router`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from proxy.app.context import WorkerContext
from proxy.auth import event_secrets
from proxy.config.loader import ConfigError
from proxy.config.settings import Config
from proxy.jobs.event_delivery import EventDelivering
from proxy.jobs.event_targets import EventTargets, tls_context
from proxy.jobs.queue import JobKind
from proxy.upstream.guarded_connector import parse_networks


def make_event_targets(config: Config) -> EventTargets:
    """The allowed targets, and the clients that send to them. ConfigError."""
    given = config.events
    sqs: dict[str, Any] = {"endpoint_url": given.sqs_endpoint} if given.sqs_endpoint else {}
    if given.sqs_access_key_id:
        sqs["aws_access_key_id"] = given.sqs_access_key_id
        sqs["aws_secret_access_key"] = given.sqs_secret_access_key
    try:
        allowed = parse_networks(given.allowed_networks)
    except ValueError as error:
        raise ConfigError(f"[events] allowed_networks: {error}") from None
    return EventTargets(
        allowed=allowed,
        tls=tls_context(given.ca_bundle, ConfigError),
        timeout=given.timeout_seconds,
        folder=Path(given.folder) if given.folder else None,
        queues=given.sqs_queues,
        sqs=sqs,
    )


def event_jobs(config: Config, context: WorkerContext, targets: EventTargets) -> JobKind:
    """The kind of job that delivers events."""
    delivering = EventDelivering(
        context.metadata,
        targets,
        context.agreement.sealer(event_secrets.PURPOSE),
        region=config.registry.region,
        clock=time.time,
        wraps=config.events.format == "cloudevents",
    )
    return delivering.kind()
