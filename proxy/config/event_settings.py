"""`[events]`: the allowed targets of events, and how they are delivered. Part of `settings`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from proxy.config.setting import between, matches, networks, one_of, setting


def _queues(values: Any) -> str | None:
    bad = [
        value for value in values if not re.fullmatch(r"arn:aws:sqs:[a-z0-9-]+:\d{12}:[\w.*-]{1,80}", value, re.ASCII)
    ]
    return f"{bad[0]!r} is not arn:aws:sqs:REGION:ACCOUNT:NAME, where NAME may have stars" if bad else None


@dataclass(frozen=True, slots=True)
class EventSettings:
    allowed_networks: tuple[str, ...] = setting(
        (),
        "networks that webhooks may be in though not public, such as 10.0.0.0/8, over http:// too; public: https only",
        networks,
    )
    ca_bundle: str = setting(
        "", "PEM file of the CAs that webhooks' certificates are verified with; empty is the system's"
    )
    timeout_seconds: float = setting(10.0, "in which a target must answer", between(0.1, 300))
    format: str = setting(
        "eventbridge",
        "what webhooks and queues are sent: eventbridge, or cloudevents (the same, wrapped as CloudEvents 1.0)",
        one_of("eventbridge", "cloudevents"),
    )
    folder: str = setting("", "where file targets are, as ACCOUNT/NAME; empty: there are none")
    sqs_queues: tuple[str, ...] = setting(
        (), "ARNs of queues that rules may name, such as arn:aws:sqs:us-east-1:123456789012:ci-*; empty: none", _queues
    )
    sqs_endpoint: str = setting(
        "", "the queues' address; empty is AWS", matches(r"(https?://[^/\s]+/?)?", "http:// or https:// and a host")
    )
    sqs_access_key_id: str = setting("", "empty takes the usual AWS chain (environment, profile, role)")
    sqs_secret_access_key: str = setting("", "goes with sqs_access_key_id", secret=True)
