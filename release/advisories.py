"""Known vulnerabilities of what the locks name, by pip-audit: found ones fail, a service out of reach is said aloud.

    python release/advisories.py LOCK…

pip-audit ends with status 0 and "No known vulnerabilities found" also where its service knew none of the packages, or
could not be reached for them. This script reports that case as NOT AUDITED.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 300


def verdict(status: int, output: str, errors: str) -> tuple[int, str]:
    """Exit status, and what to say, of a run of `pip-audit --format json`."""
    try:
        found: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["it said nothing"])[-1][:300]
        return 0, f"NOT AUDITED: pip-audit could not ask its service (status {status}): {last}"
    holes = [(each["name"], each["version"], hole) for each in found for hole in each.get("vulns", [])]
    skipped = [each["name"] for each in found if "skip_reason" in each]
    lines = [
        f"{name} {version}: {hole['id']}, mended in {', '.join(hole.get('fix_versions', [])) or 'no release'}"
        for name, version, hole in holes
    ]
    if skipped:
        lines.append(f"NOT AUDITED: {len(skipped)} of {len(found)} packages, which the service did not answer for")
    elif not holes:
        lines.append(f"{len(found)} packages, no known vulnerability")
    return 1 if holes else 0, "\n".join(lines)


def main(locks: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    for lock in locks:
        command += ["-r", lock]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--timeout", "10"], capture_output=True, text=True, timeout=SECONDS
        )
        status, said = verdict(done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        status, said = 0, f"NOT AUDITED: the service did not answer within {SECONDS} s"
    print(said, file=sys.stderr if "NOT AUDITED" in said or status else sys.stdout)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
