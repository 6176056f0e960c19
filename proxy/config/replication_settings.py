"""`[replication]`: how images are replicated. Part of `settings`; `peer_settings` has the destinations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from proxy.config.setting import between, setting

_PRINCIPAL = re.compile(r"arn:aws:iam::[0-9]{12}:(user|role)/[\w+=,.@/-]+", re.ASCII)


def _principals(values: Any) -> str | None:
    bad = [value for value in values if not _PRINCIPAL.fullmatch(value)]
    return f"{bad[0]!r} is not the ARN of a user or a role" if bad else None


@dataclass(frozen=True, slots=True)
class ReplicationSettings:
    at_once: int = setting(16, "most images that a worker replicates at once", between(1, 1000))
    senders: tuple[str, ...] = setting(
        (),
        "ARNs of users and roles that peers replicate as, who are believed which account an image is of; "
        "others replicate from their own account's number into their own account",
        _principals,
    )
