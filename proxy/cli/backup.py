"""The commands that keep what is stored, or take it elsewhere: migrate-storage, backup, restore, audit.

`proxy.admin` does the work; it is imported on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxy.cli.options import checked, load, shared


@click.command("migrate-storage")
@shared
@click.option(
    "--to",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A TOML file: its [storage] is the target.",
)
@click.option("--final", is_flag=True, help="The server has stopped: copy the rest and end open uploads.")
@click.option("--verify", is_flag=True, help="Open every frame in the target, too; what is bad is copied again.")
def migrate_storage(file: Path | None, data: str | None, to: Path, final: bool, verify: bool) -> None:
    """Copy all sealed objects to another store: a folder to S3, S3 to a folder, S3 to S3.

    The settings in force name the source, [storage] of the file given by --to the target. Objects go as they are,
    under the same keys; what is there already is not copied again, so that a run which was broken off is gone on with.
    The target gets the store's name; one that another registry uses is refused.

    Run it while the server serves, then stop the server and run it again with --final, which copies what has come
    since, within moments, and ends open uploads (docker and others push such a layer again from its start). Then put
    the file's [storage] into the settings and start. After a power cut meanwhile, run it with --verify.

    \b
    Examples:
      wharfage migrate-storage --config /etc/wharfage.toml --to /etc/wharfage-s3.toml
      wharfage migrate-storage --config /etc/wharfage.toml --to /etc/wharfage-s3.toml --final --verify
    """
    from proxy.admin import migrations

    found = load(file, data, {})
    sys.exit(checked(lambda: migrations.migrate_storage(found, to, final=final, verify=verify, say=click.echo)))


_passphrase_file = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File that holds the passphrase, at least 12 characters.  [asked for]",
)


@click.command()
@shared
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_passphrase_file
@click.option("--inventory", is_flag=True, help="Rows, keys and the list of objects; not the objects.")
@click.option("--verify", is_flag=True, help="Open every frame of every copy, too; what is bad there is copied again.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Then remove all but the newest N snapshots.")
def backup(file: Path | None, data: str | None, folder: Path, passphrase_file: Path | None, **how: Any) -> None:
    """Back everything up into a folder, while the server serves: rows of one moment, keys, objects.

    Objects are copied as they are, sealed; a second backup into the same folder copies only what is new. Keys and
    credentials are sealed under a passphrase. No blob is removed by the sweep meanwhile. Open uploads are not part of
    it. --inventory is for stores that keep versions or copies of their own: objects are looked for and listed.

    Run it where the server runs, on any one machine of several: the rows must be at hand, in the data directory or by
    [metadata] database, which a node that has a [metadata] url needs for this alone. Once for all nodes is enough.

    Exit status: 0 complete, 1 complete but for objects that the registry itself has lost (they are named).

    \b
    Examples:
      wharfage backup /mnt/backup --passphrase-file /etc/wharfage/passphrase
      wharfage backup /mnt/backup --passphrase-file /etc/wharfage/passphrase --keep 14
      wharfage backup /mnt/backup --inventory
    """
    from proxy.admin import backups

    found = load(file, data, {})
    ask = _passphrase(passphrase_file, confirm=True)
    sys.exit(checked(lambda: backups.backup(found, folder, **how, passphrase=ask, say=click.echo)))


@click.command()
@shared
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_passphrase_file
@click.option("--snapshot", metavar="NAME", help="A folder under DIR/snapshots.  [the newest]")
@click.option("--verify", is_flag=True, help="Then open every frame of every object.")
def restore(
    file: Path | None, data: str | None, folder: Path, passphrase_file: Path | None, snapshot: str | None, verify: bool
) -> None:
    """Bring a registry back from a backup, on an empty machine: into --data, the store and database of the settings.

    Refused where a registry lives. Keys first, then objects, rows last; when it is broken off, the same command goes
    on. With a backup by --inventory the objects must be in the store already: it looks for each. Afterwards
    `wharfage serve` serves the snapshot; logins and tokens are those of before, open uploads begin again.

    Exit status: 0 all is there, 1 objects are lacking or damaged (named), 2 some could not be checked.

    \b
    Examples:
      wharfage restore /mnt/backup --data /srv/wharfage --passphrase-file passphrase
      wharfage restore /mnt/backup --config /etc/wharfage.toml --snapshot 20261124T220511Z --verify
    """
    from proxy.admin import restores

    found = load(file, data, {})
    ask = _passphrase(passphrase_file, confirm=False)
    sys.exit(
        checked(
            lambda: restores.restore(found, folder, snapshot=snapshot, verify=verify, passphrase=ask, say=click.echo)
        )
    )


def _passphrase(file: Path | None, *, confirm: bool) -> Callable[[], str]:
    """Reads it when it is called: from the file (its last line end is not part of it), or from the terminal."""
    if file is not None:
        return lambda: file.read_text(encoding="utf-8").rstrip("\r\n")
    return lambda: str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


@click.group()
def audit() -> None:
    """What is in the audit log, and whether it is as it was written."""


@audit.command()
@shared
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
def verify(file: Path | None, data: str | None, files: tuple[Path, ...]) -> None:
    """Follow the hash chain over the lines of the audit log: was one changed, removed or inserted since?

    Without FILE: both logs of the data directory, while the server runs, and when it does not. With FILEs: copies, as
    they were collected from files or from standard output; those of one log are ordered by their numbers.

    A copy elsewhere is what a log is compared with in the end: who may write the data directory can compute the whole
    chain anew. Of copies nothing says that the newest lines are there.

    Exit status: 0 all is whole, 1 a line was changed, removed or inserted: the first one is named.

    \b
    Examples:
      wharfage audit verify --data /srv/wharfage
      wharfage audit verify /mnt/collected/audit.jsonl*
    """
    from proxy.admin import audit_logs

    found = load(file, data, {})
    sys.exit(checked(lambda: audit_logs.verify(found, files, click.echo)))


COMMANDS: tuple[click.Command, ...] = (migrate_storage, backup, restore, audit)
"""For `cli`."""
