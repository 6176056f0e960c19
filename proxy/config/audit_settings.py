"""`[audit]`: where the audit log is written, and how much of it is kept. Part of `settings`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.setting import between, one_of, setting


@dataclass(frozen=True, slots=True)
class AuditSettings:
    to: str = setting(
        "file",
        "where the audit trail goes: file, stdout (an event a line), or none",
        one_of("file", "stdout", "none"),
    )
    file: str = setting("", "the trail's file; empty is <data>/audit/audit.jsonl")
    rotate_mib: int = setting(64, "MiB after which a new file is begun", between(1, 65_536))
    keep: int = setting(10, "how many full files stay", between(0, 10_000))
    required: bool = setting(False, "refuse writes (503) while their events cannot be written; reads go on")
    unauthenticated_mib: int = setting(
        64, "MiB of all files of events whose caller was not authenticated", between(1, 65_536)
    )
    unauthenticated_per_second: float = setting(
        10.0, "such events written a second by each worker; the others are only counted", between(0, 100_000)
    )
