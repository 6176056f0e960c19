"""Events as EventBridge has them, and where they go. Pure.

An event for a target is JSON of EventBridge's envelope (`envelope`). A target's `Arn` is one of

    https://HOST/PATH    arn:aws:events:REGION:ACCOUNT:api-destination/https://HOST/PATH    a webhook
    file:NAME            arn:aws:events:REGION:ACCOUNT:file/NAME                            a file of `[events] folder`
    arn:aws:sqs:REGION:ACCOUNT:NAME                                                         a queue

Sources: EventBridge User Guide, "Events"; ECR User Guide, "Amazon ECR events and EventBridge".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

SOURCE = "aws.ecr"
IMAGE_ACTION = "ECR Image Action"
REFERRER_ACTION = "ECR Referrer Action"
PULL_THROUGH_CACHE_ACTION = "ECR Pull Through Cache Action"
IMAGE_SCAN = "ECR Image Scan"
REPLICATION_ACTION = "ECR Replication Action"

ATTEMPTS = 185  # after the first, unless the target's RetryPolicy says otherwise: EventBridge's own
AGE_SECONDS = 86_400

_API_DESTINATION = re.compile(r"arn:aws:events:([a-z0-9-]+):(\d{12}):api-destination/(https?://.+)", re.ASCII)
_FILE = re.compile(r"(?:file:|arn:aws:events:([a-z0-9-]+):(\d{12}):file/)([A-Za-z0-9_][A-Za-z0-9._-]{0,127})", re.ASCII)
_QUEUE = re.compile(r"arn:aws:sqs:([a-z0-9-]+):(\d{12}):([A-Za-z0-9_-]{1,80}(?:\.fifo)?)", re.ASCII)


class TargetKind(StrEnum):
    WEBHOOK = "webhook"
    FILE = "file"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Destination:
    """`address` is a URL, a file's name, or a queue's ARN."""

    kind: TargetKind
    address: str


@dataclass(frozen=True, slots=True)
class EventDelivery:
    """The next event of a target and a repository. Times are epoch seconds; secrets are sealed, the current one first.

    `definition` is the target's JSON, as PutTargets was given it."""

    delivery_id: int
    body: str
    attempts: int
    created_at: float
    definition: str
    secrets: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class EventSecret:
    """Sealed. `previous` signs as well until `previous_until`."""

    sealed: bytes
    previous: bytes | None
    previous_until: float


def parse_destination(arn: str, account: str, region: str) -> Destination:
    """ValueError for an `Arn` that names no target of this account and region."""
    if found := _QUEUE.fullmatch(arn):
        return Destination(TargetKind.QUEUE, arn)
    if found := _FILE.fullmatch(arn):
        whose, address, kind = (found[1], found[2]), found[3], TargetKind.FILE
    elif found := _API_DESTINATION.fullmatch(arn):
        whose, address, kind = (found[1], found[2]), found[3], TargetKind.WEBHOOK
    elif re.match(r"https?://", arn):
        whose, address, kind = (None, None), arn, TargetKind.WEBHOOK
    else:
        raise ValueError("is neither https://HOST/PATH (alone, or in an api-destination's ARN), file:NAME nor a queue")
    if whose not in ((None, None), (region, account)):
        raise ValueError(f"is of another account or region than {account} in {region}")
    return Destination(kind, address)


def envelope(
    event_id: str,
    detail_type: str,
    account: str,
    region: str,
    now: float,
    detail: Mapping[str, Any],
    resources: Sequence[str] = (),
) -> dict[str, Any]:
    """What an event is. `now` in epoch seconds."""
    return {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": SOURCE,
        "account": account,
        "time": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": list(resources),
        "detail": dict(detail),
    }


def precise_time(seconds: float) -> str:
    """RFC 3339 with a fraction, of epoch seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The same event as CloudEvents 1.0, structured: its whole JSON is the `data`."""
    detail = event["detail"]
    wrapped = {
        "specversion": "1.0",
        "id": event["id"],
        "source": f"urn:wharfage:{event['account']}:{event['region']}",
        "type": "com.amazonaws.ecr." + event["detail-type"].removeprefix("ECR ").lower().replace(" ", "-"),
        "time": event["time"],
        "datacontenttype": "application/json",
        "data": dict(event),
    }
    return wrapped | ({"subject": detail["repository-name"]} if "repository-name" in detail else {})
