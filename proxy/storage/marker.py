"""Which store this is: a random id in the store itself, remembered in the data directory.

    <root>/wharfage-store     0600, `<32 hex digits>\\n`; made with the store, at the first start of all (`s3marker`
                              has the one of a bucket)
    known (data directory)    the same line: which store the rows of this registry are about

An object that is not there is missing only in the right store: elsewhere (a disk that is not mounted, another one, an
emptied folder) nothing is known about it. Promises: an id is never overwritten; a store is named anew only where no row
can be about an older one. All of it blocks. Must not know how objects lie.
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
    """The id of the store at `root`, which from now on is the one of this data directory.

    `first` is asked only of a store without an id: True, when no row can be about any object, gives it one. Failure
    StoreUnavailable when the store is not the one that `known` names, or has no id though rows may need it.
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
    """`claim`, of a store whose id `find` reads, and `make` puts there unless there is one; `question` is the hint."""
    remembered = _read(known)
    found = find()
    if found is None and remembered is None and first():
        make(secrets.token_hex(16))
        found = find()  # ours, or that of another process that was faster
    if found is None or (remembered is not None and found != remembered):
        raise another(question, found)
    if remembered is None:
        _make(known, found)
        if _read(known) != found:
            raise another(question, found)
    return found


def adopt(root: Path, store_id: str) -> None:
    """Name the store at `root` `store_id`: a copy of the store that has that name, or the same one again.

    Failure StoreUnavailable when it has another name, or objects and no name.
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
    """`adopt`, of any store."""
    found = find()
    if found is None and is_empty():
        make()
        found = find()
    if found != store_id:
        raise Failure(
            Code.STORE_UNAVAILABLE,
            f"{where} holds another registry's store, and nothing was written there",
            hint="name an empty place" if found is not None else f"it has objects and no {NAME}: name an empty place",
        )


def known_id(known: Path) -> str | None:
    """What `claim` has written down in the data directory."""
    return _read(known)


def vouch(root: Path, folder: int, store_id: str) -> None:
    """Failure StoreUnavailable unless the folder open as `folder` (named `root` for people) is the store `store_id`."""
    found = _read(NAME, folder)
    if found != store_id:
        raise stranger(root, found)


def stranger(root: Path, found: str | None) -> Failure:
    return another(_question(root), found)


def another(question: str, found: str | None) -> Failure:
    """What is said of a store that holds `found` where another id belongs."""
    what = f"it holds no {NAME}" if found is None else f"its {NAME} names another"
    return Failure(
        Code.STORE_UNAVAILABLE,
        "the store is not the one that this registry's rows are about",
        hint=f"{question} {what}",
    )


def _question(root: Path) -> str:
    return f"is it mounted at {root}?"


def _read(path: Path | str, folder: int | None = None) -> str | None:
    """The id, None when there is no such file; a file that holds none is an id that no store has."""
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
    """Whole and on disk when it returns; what is there already stays."""
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
