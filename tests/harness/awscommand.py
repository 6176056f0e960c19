"""The real aws command as its user has it: credentials in the environment, an endpoint, a folder with files of theirs.

Commands are given as they are typed. What succeeds comes back as its JSON, what fails as what it said.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.programs import run

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Aws:
    """`folder` is where it runs: `file://name` finds what `write` wrote. `key` is (id, secret[, session token])."""

    url: str
    folder: Path
    key: tuple[str, ...]
    more: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, command: str) -> Any:
        """What it printed, read as JSON; None where it printed nothing."""
        said = self.text(f"{command} --output json")
        return json.loads(said) if said else None

    def text(self, command: str) -> str:
        """What it printed, without the last line's end."""
        return self._run(command, ok=True)[0].removesuffix("\n")

    def error(self, command: str) -> str:
        """What it said as it failed, which it must."""
        return self._run(command, ok=False)[1].strip()

    def as_(self, *key: str) -> Aws:
        """The same for somebody else."""
        return Aws(self.url, self.folder, key, self.more)

    def write(self, name: str, document: Any) -> None:
        """A file of the folder."""
        (self.folder / name).write_text(json.dumps(document, indent=2))

    def _run(self, command: str, *, ok: bool) -> tuple[str, str]:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        settings = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(self.folder),  # where it keeps the sessions of roles that profiles take
            **dict(zip(names, self.key, strict=False)),
            **self.more,
        }
        done = run(*shlex.split(command), extra=settings, cwd=self.folder, ok=ok)
        return done.stdout, done.stderr


def key_of(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """What `create-access-key` or `assume-role` printed, as the environment takes it."""
    found = answer.get("AccessKey") or answer["Credentials"]
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    return tuple(found[name] for name in names if name in found)


def said(error: str) -> tuple[str, str]:
    """Name and text of what the aws command prints of an error."""
    found = re.fullmatch(r"An error occurred \((\w+)\) when calling the \w+ operation: (.*)", error, re.DOTALL)
    assert found is not None, error
    return found[1], found[2]
