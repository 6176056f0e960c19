"""Audit logs, verified: those of the data directory, or copies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxy.admin.session import CannotVisit, Say, existing
from proxy.audit.verification import Verification, by_log, files_of, verify_files, verify_log
from proxy.config.settings import Config


def verify(config: Config, files: Sequence[Path], say: Say) -> int:
    """The exit status. OSError for a file that cannot be read."""
    if files:
        found = {log: verify_files(each) for log, each in by_log(files).items()}
    else:
        data = existing(config)
        logs = [log for log in (data.audit, data.unauthenticated) if files_of(log)]
        if data.audit not in logs:
            raise CannotVisit(f'{data.audit}: there is no audit log; with [audit] to = "stdout", name its copies')
        found = {log: verify_log(log) for log in logs}
    for log, verified in found.items():
        say(_line(log, verified))
    return 1 if any(verified.fault for verified in found.values()) else 0


def _line(log: Path, found: Verification) -> str:
    if found.fault:
        return f"{log}: BROKEN after {found.lines} lines: {found.fault}"
    more = [f"{found.starts} chains"] if found.starts != 1 else []
    more += [f"{found.unchained} older than the chain"] if found.unchained else []
    more += [f"{found.interrupted} interrupted by a kill"] if found.interrupted else []
    said = f" ({', '.join(more)})" if more else ""
    return f"{log}: whole: {found.lines} lines in {found.files} files{said}"
