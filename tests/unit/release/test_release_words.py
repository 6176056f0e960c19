"""What is said of a release: its sums and their signature, and what is known of its dependencies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import advisories
import pytest
import sums


def audited(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(dependencies)})


SOUND = {"name": "a", "version": "1", "vulns": []}
HOLE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("run", "status", "said"),
    [
        ((0, audited(SOUND), ""), 0, "1 packages, no known vulnerability"),
        ((1, audited(SOUND, HOLE), ""), 1, "b 2: CVE-1, mended in 3"),
        ((0, audited(SOUND, SKIPPED), "No known vulnerabilities found"), 0, "NOT AUDITED: 1 of 2 packages"),
        ((1, audited(HOLE, SKIPPED), ""), 1, "b 2: CVE-1, mended in 3\nNOT AUDITED: 1 of 2 packages"),
        ((1, "", "ERROR: Connection refused"), 0, "NOT AUDITED: pip-audit could not ask its service (status 1)"),
        ((0, "null", ""), 0, "NOT AUDITED"),
    ],
    ids=["sound", "hole", "unanswered", "hole-and-unanswered", "no-network", "no-report"],
)
def test_only_a_known_vulnerability_fails_an_audit_and_no_audit_is_not_called_one(
    run: tuple[int, str, str], status: int, said: str
) -> None:
    """pip-audit itself is content when its service answered for no package at all."""
    found, text = advisories.verdict(*run)
    assert found == status
    assert text.startswith(said)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "dist"
    made.mkdir()
    (made / "b.whl").write_bytes(b"wheel")
    (made / "a.tar.gz").write_bytes(b"sdist")
    return made


@pytest.mark.needs("sha256sum")
def test_sums_are_those_that_sha256sum_checks(folder: Path) -> None:
    assert sums.main(str(folder)) == 0
    names = [line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert names == ["a.tar.gz", "b.whl"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_without_a_key_it_says_that_nothing_is_signed_and_leaves_no_older_signature(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "SHA256SUMS.sig").write_text("of the sums of yesterday")
    assert sums.main(str(folder)) == 0
    assert "is NOT signed" in capsys.readouterr().err
    assert not (folder / "SHA256SUMS.sig").exists()


@pytest.mark.needs("ssh-keygen")
def test_a_signature_holds_for_these_sums_and_no_others(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    assert sums.main(str(folder), str(key)) == 0
    allowed = tmp_path / "allowed"
    allowed.write_text(f"release@example.com {key.with_suffix('.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "release@example.com", "-n", sums.NAMESPACE]
    verify += ["-s", str(folder / "SHA256SUMS.sig")]
    content = (folder / "SHA256SUMS").read_bytes()
    for given, status in ((content, 0), (content.replace(b"a.tar.gz", b"c.tar.gz"), 255)):
        assert subprocess.run(verify, input=given, capture_output=True, check=False).returncode == status
