"""The store's identity: a random id in the store, recorded in the data directory.

    <root>/wharfage-store     0600, `<32 hex digits>\\n`; written at the first start (`s3.marker`: for a bucket)
    known (data directory)    the same line: the store that this registry's rows are about

Only in the right store does an absent object count as missing; a disk that is not mounted, or another disk, says
nothing about it. Promises: an id is never overwritten; a store gets a new id only if no row can be about an older one.
Called by `app.stores` and the stores. Everything blocks. Must not know how objects are stored.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from proxy.model.errors import Code, Failure

NAME = "wharfage-store"
LENGTH = 33  # bytes of an id with its line's end
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def claim(root: Path, known: Path, *, first: Callable[[], bool]) -> str:
    """The id of the store at `root`, which is recorded as the store of this data directory.

    `first` is called only if neither the store nor the record has an id: True (no row can be about an object) makes
    one. Failure StoreUnavailable when the store is not the recorded one, or has no id although rows may need it.
    """

    def make(store_id: str) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(root / NAME, store_id)

    return agree(known, find=lambda: _read(root / NAME), make=make, question=_question(root), first=first)


def agree(
    known: Path,
    *,
    find: Callable[[], str | None],
    make: Callable[[str], None],
    question: str,
    first: Callable[[], bool],
) -> str:
    """`claim` for any kind of store: `find` reads its id, `make` writes one unless it has one; `question` is the
    failure's hint."""
    remembered = _read(known)
    found = find()
    if found is None and remembered is None and first():
        make(secrets.token_hex(16))
        found = find()  # ours, or that of another process that was faster
    if found is None or (remembered is not None and found != remembered):
        raise wrong_store(question, found)
    if remembered is None:
        _make(known, found)
        if _read(known) != found:
            raise wrong_store(question, found)
    return found


def adopt(root: Path, store_id: str) -> None:
    """Give the store at `root` the id `store_id`: for a copy of the store with that id. May be repeated.

    Failure StoreUnavailable when it has another id, or objects and no id.
    """

    def make() -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(root / NAME, store_id)

    take_over(
        store_id,
        find=lambda: _read(root / NAME),
        is_empty=lambda: next(root.glob("[0-9a-f][0-9a-f][0-9a-f]/*"), None) is None,
        make=make,
        where=str(root),
    )


def take_over(
    store_id: str,
    *,
    find: Callable[[], str | None],
    is_empty: Callable[[], bool],
    make: Callable[[], None],
    where: str,
) -> None:
    """`adopt` for any kind of store."""
    found = find()
    if found is None and is_empty():
        make()
        found = find()
    if found != store_id:
        raise Failure(
            Code.STORE_UNAVAILABLE,
            f"{where} holds another registry's store, and nothing was written there",
            hint="choose an empty one" if found is not None else f"it has objects and no {NAME}: choose an empty one",
        )


def known_id(known: Path) -> str | None:
    """The id that `claim` recorded in the data directory."""
    return _read(known)


def check(root: Path, folder: int, store_id: str) -> None:
    """Failure StoreUnavailable unless the open directory `folder` is the store `store_id`; `root` is its path."""
    found = _read(NAME, folder)
    if found != store_id:
        raise wrong_folder(root, found)


def wrong_folder(root: Path, found: str | None) -> Failure:
    return wrong_store(_question(root), found)


def wrong_store(question: str, found: str | None) -> Failure:
    """The failure for a store with the id `found` instead of the recorded one; None: with none."""
    what = f"it holds no {NAME}" if found is None else f"its {NAME} names another"
    return Failure(
        Code.STORE_UNAVAILABLE,
        "the store is not the one that this registry's rows are about",
        hint=f"{question} {what}",
    )


def _question(root: Path) -> str:
    return f"is it mounted at {root}?"


def _read(path: Path | str, folder: int | None = None) -> str | None:
    """The id; None when there is no such file. What an invalid file holds is returned too, and equals no id."""
    try:
        fd = os.open(path, _FLAGS, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(
            Code.STORE_UNAVAILABLE, f"reading {NAME}: {error.strerror}", hint="see the store's disk"
        ) from error
    try:
        return os.read(fd, LENGTH).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def _make(path: Path, store_id: str) -> None:
    """Write the file whole and durable; a file that exists already stays."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{store_id}\n".encode())
        os.fsync(fd)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        os.close(fd)
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
