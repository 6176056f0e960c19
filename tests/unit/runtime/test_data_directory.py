"""The data directory: rights, the lock, credentials that are never overwritten."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import loader
from proxy.runtime import data_directory


def opened(root: Path) -> data_directory.DataDirectory:
    return data_directory.open_data(loader.load(flags={"server.data": str(root)}, environ={}))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_and_what_is_secret_in_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else on the machine can look into data, run or keys."""
    data = opened(tmp_path / "deep" / "data")
    assert [mode(path) for path in (data.root, data.run, data.master_keys.parent)] == [0o700] * 3


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    """Two servers on one directory would be two writers of one database."""
    data = opened(tmp_path)
    held = data_directory.lock_data_directory(data)
    try:
        assert data_directory.is_locked(data)
        with pytest.raises(data_directory.DataDirectoryBusy, match=f"pid {os.getpid()}"):
            data_directory.lock_data_directory(data)
    finally:
        os.close(held)
    assert not data_directory.is_locked(data)
    os.close(data_directory.lock_data_directory(data))


def test_the_directory_of_a_killed_server_is_waited_for(tmp_path: Path) -> None:
    """While children of a dead server still end, the next start waits, and says so only when they do not."""
    data = opened(tmp_path)
    program = (
        "import sys, time; from pathlib import Path;"
        "from proxy.config import loader; from proxy.runtime import data_directory;"
        f"data = data_directory.open_data(loader.load(flags={{'server.data': {str(tmp_path)!r}}}, environ={{}}));"
        "data_directory.lock_data_directory(data); (data.root / 'lock').write_text('999999999');"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(loader.__file__).parents[1],
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(data_directory.DataDirectoryBusy):
            data_directory.lock_data_directory(data, wait_seconds=0.2)
        holder.stdin.close()
        os.close(data_directory.lock_data_directory(data, wait_seconds=10))


def test_credentials_are_private_whole_and_read_back(tmp_path: Path) -> None:
    """AWS's shared-credentials form, 0600 from its first byte."""
    path = tmp_path / "credentials"
    key = data_directory.new_access_key()
    assert data_directory.read_credentials(path) is None
    data_directory.write_credentials(path, *key)
    assert mode(path) == 0o600
    assert data_directory.read_credentials(path) == key
    assert [file.name for file in tmp_path.iterdir()] == ["credentials"]
    assert len(key[0]) == 20
    assert len(key[1]) == 40


def test_credentials_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    """A later start never takes a key away."""
    path = tmp_path / "credentials"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        data_directory.write_credentials(path, "AKIA", "secret")
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["credentials"]


def test_a_credentials_file_without_a_key_is_refused_by_name(tmp_path: Path) -> None:
    """What cannot be read is not taken for absent."""
    path = tmp_path / "credentials"
    path.write_text("[other]\naws_access_key_id = x\n")
    with pytest.raises(ValueError, match="credentials: has no aws_access_key_id"):
        data_directory.read_credentials(path)


def test_a_socket_in_a_deep_directory_gets_an_address_that_fits(tmp_path: Path) -> None:
    """A socket's address holds 107 bytes; data directories are deeper than that."""
    data = opened(tmp_path / ("d" * 60) / ("e" * 60))
    assert len(data.metadata_socket) < 100
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(data.metadata_socket)
    assert (data.run / "metadata.sock").is_socket()


def test_where_a_restore_was_broken_off_nobody_but_it_works(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.restoring.write_text("20261124T221230Z")
    with pytest.raises(data_directory.DataDirectoryBusy, match="a restore was broken off here"):
        data_directory.lock_data_directory(data)
    os.close(data_directory.lock_data_directory(data, restores=True))
    data.restoring.unlink()
    os.close(data_directory.lock_data_directory(data))
