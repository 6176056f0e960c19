"""Progress where no bar can be drawn, and passphrases that are asked for."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from proxy.admin.session import left
from proxy.cli import backup
from proxy.jobs.progress import Progress


@pytest.mark.parametrize(
    ("done", "total", "begun", "seconds", "words"),
    [
        (250, 1000, 0, 10.0, ", 0:00:30 left"),
        (600, 1000, 500, 900.0, ", 1:00:00 left"),  # the first 500 were there before
        (1000, 1000, 0, 5.0, ", 0:00:00 left"),
        (10, 0, 0, 5.0, ""),  # nobody knows how many there are
        (0, 1000, 0, 5.0, ""),
    ],
)
def test_what_is_left_is_told_by_the_pace_so_far(done: int, total: int, begun: int, seconds: float, words: str) -> None:
    assert left(Progress("copying", done, total, "bytes"), seconds, begun) == words


def test_a_passphrase_is_what_the_file_holds_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_text(" it has spaces  \r\n")
    assert backup._passphrase(file, confirm=True)() == " it has spaces  "


@pytest.mark.parametrize(
    ("confirm", "typed"), [(False, "twelve letters\n"), (True, "twelve letters\ntwelve letters\n")]
)
def test_without_a_file_it_is_asked_for_and_never_shown(confirm: bool, typed: str) -> None:
    asked = click.Command("ask", callback=lambda: click.echo(len(backup._passphrase(None, confirm=confirm)())))
    done = CliRunner().invoke(asked, input=typed)
    assert done.exit_code == 0
    assert done.stdout.strip() == "14"
    assert "twelve" not in done.output
