"""Settings of replication; see `settings`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.setting import between, setting


@dataclass(frozen=True, slots=True)
class ReplicationSettings:
    at_once: int = setting(16, "most images that a worker replicates at once", between(1, 1000))
