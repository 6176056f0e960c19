"""The real aws command as its user has it: credentials in the environment, an endpoint, a folder with files of theirs.

Commands are given as they are typed. What succeeds comes back as its JSON, what fails as what it said. They run one
after the other in forks of one process (`aws_forks`), where the command is a Python program, as Make installs it.
"""

from __future__ import annotations

import atexit
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from support.programs import environment, find, run

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
        words = shlex.split(command)
        if words[0] != "aws" or (forks := _Forks.kept()) is None:
            done = run(*words, extra=settings, cwd=self.folder, ok=ok)
            return done.stdout, done.stderr
        status, out, err = forks.run(words, environment(settings), self.folder)
        assert (status == 0) is ok, f"{command[:200]} ended with {status}\n--- stdout\n{out}\n--- stderr\n{err}"
        return out, err


class _Forks:
    """The process that `aws_forks` is, and a folder for what its commands print."""

    _kept: ClassVar[list[_Forks]] = []

    @classmethod
    def kept(cls) -> _Forks | None:
        """One for all tests; None where the command is no Python program that can be imported."""
        if not cls._kept:
            command = find("aws")
            python = Path(command).resolve().with_name("python") if command else None
            if python is None or not python.exists():
                return None
            cls._kept.append(cls(python))
        return cls._kept[0]

    def __init__(self, python: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="aws-command-"))
        self._home = self._folder / "home"  # the command asks as it is imported where it is: a link to whose turn it is
        self._process = subprocess.Popen(
            [python, "-P", Path(__file__).with_name("aws_forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment({**_NOBODY, "HOME": str(self._home)}),
            cwd=self._folder,
        )
        self._one_at_a_time = threading.Lock()
        atexit.register(self._end)
        assert self._answer() == "ready"

    def run(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str, str]:
        """Exit status and what was printed on both."""
        out, err = (self._folder / name for name in ("out", "err"))
        asked = {
            "words": words,
            "environment": environment,
            "folder": str(folder),
            "out": str(out),
            "err": str(err),
        }
        with self._one_at_a_time:
            self._home.unlink(missing_ok=True)
            self._home.symlink_to(environment["HOME"])
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            status = int(self._answer())
            return status, out.read_text(errors="replace"), err.read_text(errors="replace")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _end(self) -> None:
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


_NOBODY = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_MAX_ATTEMPTS": "1",
}
"""Settings for the warm-up."""


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
