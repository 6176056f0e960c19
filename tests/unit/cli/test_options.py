"""How a command's failure becomes one line and an exit status."""

from __future__ import annotations

import pytest

from proxy.admin.session import CommandRefused
from proxy.auth.passphrase import SealError
from proxy.blob.master_file import KeyFileError
from proxy.cli.options import checked
from proxy.config.loader import ConfigError
from proxy.jobs.backup import BackupError
from proxy.model.errors import Code, Failure, OperatorError
from proxy.rig.errors import InvalidLoad, LoadFailed
from proxy.runtime.data_directory import DataDirectoryBusy


class _Mine(OperatorError):
    """One that no list anywhere names."""


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("say what to do"), 2),
        (InvalidLoad("say what to do"), 2),
        (_Mine("say what to do"), 3),
        (CommandRefused("say what to do"), 3),
        (BackupError("say what to do"), 3),
        (SealError("say what to do"), 3),
        (KeyFileError("say what to do"), 3),
        (LoadFailed("say what to do"), 3),
        (DataDirectoryBusy("say what to do"), 3),
        (Failure(Code.SERVER, "say what to do"), 3),
        (OSError("say what to do"), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_an_operator_can_mend_is_one_line_and_a_status(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        checked(lambda: _raise(error), failed=3)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"wharfage: {error}\n"


def test_a_mistake_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        checked(lambda: _raise(ZeroDivisionError("ours")))
