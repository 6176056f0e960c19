"""The `wharfage` command: its sub-commands, their flags, and help that teaches.

Promises: wrong settings end with one line that names them and status 2, what cannot be done with one line and status 1;
no trace for either. `proxy.app` and `proxy.admin` do the work; they are imported on first use.
Commands that back up or move stored data are in `cli.backup`, those about accounts in `cli.accounts`, those of the load
rig in `cli.rig`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from proxy.cli import accounts, archive, backup, events, jobs, lifecycle, pull_through, replication, rig
from proxy.cli.options import checked as _checked
from proxy.cli.options import load as _load
from proxy.cli.options import shared as _shared
from proxy.config import loader
from proxy.config.settings import Config

_F = Callable[..., Any]
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _listening(function: _F) -> _F:
    """The flags of commands that answer docker and aws."""
    for option in (
        click.option("--print-config", is_flag=True, help="Print what is in force and where it came from, and end."),
        click.option("--tls-self-signed", is_flag=True, default=None, help="Make a CA and a certificate, to try TLS."),
        click.option("--tls-key", metavar="FILE", help="The certificate's key, PEM."),
        click.option("--tls-cert", metavar="FILE", help="Certificate and chain, PEM; read again when it changes."),
        click.option("--workers", type=int, metavar="N", help="Proxy workers.  [one a core]"),
        click.option("--listen", metavar="HOST:PORT", help="Where to listen.  [127.0.0.1:5000]"),
    ):
        function = option(function)
    return function


@click.group(context_settings=_CONTEXT)
def main() -> None:
    """Wharfage: a self-hosted container registry that answers as Amazon ECR does, sealed at rest.

    \b
    Try it:
      wharfage serve &
      wharfage token | docker login -u AWS --password-stdin 127.0.0.1:5000
      docker push 127.0.0.1:5000/team/app:v1

    Every setting can stand in a TOML file (--config), in the environment (WHARFAGE_<SECTION>_<KEY>), or in a flag;
    the later wins. `wharfage serve --print-config` lists them all.
    """


for _command in (
    *backup.COMMANDS,
    *accounts.COMMANDS,
    *events.COMMANDS,
    *jobs.COMMANDS,
    *replication.COMMANDS,
    *lifecycle.COMMANDS,
    *archive.COMMANDS,
    *pull_through.COMMANDS,
    *rig.COMMANDS,
):
    main.add_command(_command)


@main.command()
@_shared
@_listening
def serve(file: Path | None, data: str | None, print_config: bool, **flags: Any) -> None:
    """Run the whole registry: a metadata process and the proxy workers, supervised.

    The first start makes the data directory with a master key, an administrator and its credentials file. SIGTERM
    drains and ends it, a second one at once.

    \b
    Examples:
      wharfage serve
      wharfage serve --data /srv/wharfage --listen 0.0.0.0:443 --tls-cert site.crt --tls-key site.key
      wharfage serve --listen 0.0.0.0:5000 --tls-self-signed
      WHARFAGE_REGISTRY_REGION=eu-west-1 wharfage serve --config /etc/wharfage.toml --print-config
    """
    found = _load(file, data, flags)
    if print_config:
        click.echo(loader.describe(found))
        return
    _serve(found, metadata=not found.metadata.url, workers=True)


@main.command()
@_shared
@click.option("--listen", metavar="HOST:PORT", help="TCP, beside the socket under <data>/run; needs a secret.")
def metadata(file: Path | None, data: str | None, listen: str | None) -> None:
    """Run the metadata service alone, for proxies that `wharfage proxy` starts.

    On TCP every request must carry the shared secret, [metadata] secret or WHARFAGE_METADATA_SECRET. The proxies need
    the same master keys: copy <data>/keys/master.json to them, or keep the keys in KMS.

    \b
    Examples:
      wharfage metadata --data /srv/wharfage
      WHARFAGE_METADATA_SECRET=... wharfage metadata --config node.toml --listen 10.0.0.5:5050

    \b
    Several of them over one PostgreSQL, each on a machine of its own, in node.toml:
      [metadata]
      database = "postgresql://wharfage@db/wharfage"
      tls_cert = "/etc/wharfage/metadata.crt"
      tls_key = "/etc/wharfage/metadata.key"
    """
    found = _load(file, data, {})
    if listen is not None:
        found = _checked(lambda: loader.load(file, {"server.data": data, "metadata.listen": listen}))
    _serve(found, metadata=True, workers=False)


@main.command()
@_shared
@_listening
@click.option("--metadata-url", metavar="URL", help="The metadata services: https://HOST:PORT,…")
def proxy(file: Path | None, data: str | None, print_config: bool, metadata_url: str | None, **flags: Any) -> None:
    """Run proxy workers alone, against metadata services that run elsewhere; the next is asked when one fails.

    \b
    Examples:
      wharfage proxy --data /srv/wharfage                 the service of `wharfage metadata` on the same directory
      WHARFAGE_METADATA_SECRET=... wharfage proxy --metadata-url https://10.0.0.5:5050,https://10.0.0.6:5050
    """
    found = _load(file, data, flags, {"metadata.url": metadata_url})
    if print_config:
        click.echo(loader.describe(found))
        return
    _serve(found, metadata=False, workers=True)


@main.command()
@_shared
@click.option("--repair", is_flag=True, help="Hide damaged blobs until pushed again; remove orphans; correct counters.")
@click.option("--quick", is_flag=True, help="List rather than read: is each object there, and as long as its row says?")
def check(file: Path | None, data: str | None, repair: bool, quick: bool) -> None:
    """Verify the store against the rows: every frame of every blob is opened, its digest computed again.

    Works while the server runs, and when it does not. Names what is corrupt, missing or orphaned, and counters of
    quotas that are wrong. Exit status: 0 all is well, 1 something is damaged, 2 some could not be checked.

    \b
    Examples:
      wharfage check --data /srv/wharfage
      wharfage check --repair && echo clean
      wharfage check --quick
    """
    from proxy.admin import stored

    sys.exit(_checked(lambda: stored.check(_load(file, data, {}), repair=repair, quick=quick, say=click.echo)))


@main.command()
@_shared
@click.option("--resume", is_flag=True, help="Go on with an earlier run: no new master key.")
@click.option("--reseal", is_flag=True, help="After a leak: also reseal every sealed object.")
def rewrap(file: Path | None, data: str | None, resume: bool, reseal: bool) -> None:
    """Make a new master key and wrap every data key anew, also those of open uploads; stored objects stay as they are.

    The keys go to the provider in force: after [keys] provider was changed, this moves a registry to KMS, or back to
    the key file. Secrets are sealed anew, and new tokens and secrets are under the new key, without a restart. Works
    while the server runs. Retired keys stay in the key file: they open what older backups hold. It can be broken off,
    and gone on with by --resume. When a master key has leaked, run --reseal --resume after it: that gives every blob a
    new data key (those stored without sealing have none), and touches no secret.

    \b
    Examples:
      wharfage rewrap --data /srv/wharfage
      wharfage rewrap --reseal --resume
    """
    from proxy.admin import stored

    found = _load(file, data, {})
    sys.exit(_checked(lambda: stored.rewrap(found, rotate=not resume, reseal=reseal, say=click.echo)))


@main.command()
@_shared
@click.option("--platform", metavar="OS/ARCH", help="Of an index only the images for it, such as linux/arm64.")
@click.argument("references", metavar="REPO[:TAG|@DIGEST]...", nargs=-1, required=True)
def warm(file: Path | None, data: str | None, platform: str | None, references: tuple[str, ...]) -> None:
    """Read images into this machine's cache, so that their first pull asks nothing of S3.

    Works while the server runs, and when it does not. REPO alone means all its tags; an index brings all its images.
    Exit status 1 when something could not be found, read or kept.

    \b
    Examples:
      wharfage warm --config /etc/wharfage.toml team/app:v1
      wharfage warm team/app team/base@sha256:... --platform linux/arm64
    """
    from proxy.admin import warming

    sys.exit(_checked(lambda: warming.warm(_load(file, data, {}), references, platform=platform, say=click.echo)))


@main.command("migrate-metadata")
@_shared
def migrate_metadata(file: Path | None, data: str | None) -> None:
    """Copy all rows from the data directory's SQLite file to the PostgreSQL that [metadata] database names.

    Stop the server first. All or nothing: one transaction, refused when the PostgreSQL holds rows already, each table
    counted on both sides. The file stays as it is. Keys and objects stay where they are.

    \b
    Examples:
      wharfage migrate-metadata --config /etc/wharfage.toml
      WHARFAGE_METADATA_DATABASE=postgresql://wharfage@db/wharfage wharfage migrate-metadata --data /srv/wharfage
    """
    from proxy.admin import migrations

    sys.exit(_checked(lambda: migrations.migrate_metadata(_load(file, data, {}), say=click.echo)))


@main.command()
@_shared
def token(file: Path | None, data: str | None) -> None:
    """Print a password for `docker login`, good for 12 hours: for those without the aws CLI.

    It is the administrator's, and the same that `aws ecr get-login-password` prints. User name: AWS.

    \b
    Example:
      wharfage token | docker login -u AWS --password-stdin 127.0.0.1:5000
    """
    from proxy.admin import access

    click.echo(_checked(lambda: access.token(_load(file, data, {}))))


@main.group()
def key() -> None:
    """The master keys, under which every blob's data key is wrapped."""


@key.command()
@_shared
def export(file: Path | None, data: str | None) -> None:
    """Print all master keys as JSON, the active first: for a safe, or another reader of the format.

    Each is {"namespace", "name", "key_base64"}: a raw AES keyring of the AWS Encryption SDK. Whoever holds them can
    open everything that is stored.

    \b
    Example:
      wharfage key export --data /srv/wharfage | gpg --encrypt -r ops > master-keys.gpg
    """
    from proxy.admin import access

    click.echo(json.dumps(_checked(lambda: access.export_keys(_load(file, data, {}))), indent=1))


@key.command()
@_shared
@click.option("--save", is_flag=True, help="Write it: last in the key file, or into a new one.")
def new(file: Path | None, data: str | None, save: bool) -> None:
    """Make a master key for the next rotation: it opens from now on, and does not seal before `wharfage rewrap`.

    With several nodes, each with a copy of the key file: --save on one of them, copy the file to the others, then run
    rewrap there, which takes the key that waits. Without --save it is printed as JSON, for a file that is kept
    elsewhere, such as a Kubernetes secret: put it last in "keys" and roll that out, put it first and roll that out,
    then run rewrap --resume.

    \b
    Examples:
      wharfage key new --save --data /srv/wharfage
      wharfage key new
    """
    from proxy.admin import access

    if not save:
        click.echo(json.dumps(access.fresh_key(), indent=1))
        return
    name, path = _checked(lambda: access.save_key(_load(file, data, {})))
    click.echo(f"key {name} is in {path}: copy that file to every other node, then run `wharfage rewrap`")


@main.command()
def version() -> None:
    """Print the version, and which implementation handles bytes.

    \b
    Example:
      wharfage version
    """
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from proxy.blob import hashers

    try:
        number = installed("wharfage")
    except PackageNotFoundError:  # run from a checkout
        number = "0 (not installed)"
    click.echo(f"wharfage {number}, Python {sys.version.split()[0]}, {hashers.implementation} bytes")


def _serve(found: Config, *, metadata: bool, workers: bool) -> NoReturn:
    from proxy.app.processes import serve as run

    # Where events go to standard output, nothing else does.
    say = partial(click.echo, err=found.audit.to == "stdout")
    sys.exit(_checked(lambda: run(found, metadata=metadata, workers=workers, say=say)))
