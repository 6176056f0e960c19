"""The load rig's commands: rig push, rig pull, rig mix.

`proxy.rig` does the work; it is imported on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy.cli.options import checked

if TYPE_CHECKING:
    from proxy.rig.running import Load

T = TypeVar("T")
_PASSWORD_MOST = 64 << 10  # bytes; tokens of registries have some thousands
_CLOSED, _OPEN = 4, 256  # --concurrency
_SECONDS = click.FloatRange(0.001, 30 * 86400)
_shown = partial(click.option, show_default=True)
_UNREPORTED = ("username", "ca")  # all else that `_made` is given decides the load


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """These flags, in the order that --help has them."""

    def put_on(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return put_on


_address = click.argument("address", metavar="ADDRESS")
_shape = _options(
    _shown("--layers", metavar="N", type=click.IntRange(1, 1000), default=10, help="Layers of an image."),
    _shown("--size", default="1MiB", metavar="SIZES", help="Of layers: see `wharfage rig --help`."),
    _shown("--shared", metavar="N", type=click.FloatRange(0, 1), default=0.0, help="Part of layers that all share."),
    click.option("--chunked", is_flag=True, help="Send layers without their length."),
)
_names = _options(
    _shown("--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), default=0, help="Decides everything."),
    _shown("--repositories", metavar="N", type=click.IntRange(1, 100_000), default=1, help="Images take turns."),
    _shown("--prefix", metavar="NAME", default="rig", help="What repositories' names begin with."),
)
_pace = _options(
    click.option(
        "--concurrency",
        type=click.IntRange(1, 10_000),
        metavar="N",
        help=f"Operations at once.  [{_CLOSED}; with --rate at most {_OPEN}]",
    ),
    _shown("--parallel", metavar="N", type=click.IntRange(1, 100), default=3, help="Layers of each."),
    click.option("--rate", type=click.FloatRange(0.001, 1e6), metavar="R", help="Open loop: so many a second are due."),
    _shown("--spacing", type=click.Choice(["poisson", "steady"]), default="poisson", help="How they are due."),
    _shown(
        "--backlog",
        metavar="N",
        type=click.IntRange(0, 1_000_000),
        default=1000,
        help="How many may be overdue; what comes beyond is counted as not started.",
    ),
    _shown("--ramp", metavar="SECONDS", type=click.FloatRange(0, 86400), default=0.0, help="To full height."),
    click.option("--duration", type=_SECONDS, metavar="SECONDS", help="Begin nothing after it."),
    click.option("--count", type=click.IntRange(1, 10**12), metavar="N", help="Operations."),
    _shown("--timeout", type=_SECONDS, metavar="SECONDS", default=300.0, help="What one may take."),
)
_access = _options(
    click.option("--username", metavar="NAME", help="For Basic, or for the realm of tokens."),
    click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
    click.option("--plain-http", is_flag=True, help="No TLS; loopback addresses have none anyway."),
    click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Trust these authorities, PEM, and no others.",
    ),
    click.option(
        "--allow-host", multiple=True, metavar="HOST[:PORT]", help="The registry may send us there; may be repeated."
    ),
)
_told = _options(
    click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="The report as JSON."),
    click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.png|svg", help="And as a picture."),
    click.option("--quiet", is_flag=True, help="No progress."),
)


@click.group()
def rig() -> None:
    """Put load on a registry, ours or any other that speaks OCI Distribution, and see how it answers.

    \b
    Try it:
      wharfage token | wharfage rig push 127.0.0.1:5000 --username AWS --password-stdin
      wharfage token | wharfage rig pull 127.0.0.1:5000 --username AWS --password-stdin --duration 10

    Everything follows from --seed: names, bytes, digests, order. Layers are noise that nothing compresses; they are
    made while they are sent and dropped while they come, so that their size costs no memory. What is pushed stays.

    \b
    --size is one of
      1MiB                                        every layer (KiB, MiB, GiB, or bytes)
      uniform:64KiB-4MiB                          alike between two sizes
      lognormal:median=1MiB,sigma=1.5,max=1GiB    half of them below the median
      pareto:min=64KiB,alpha=1.2,max=1GiB         many small ones, few large

    Without --rate, each of --concurrency begins anew when it is done. With --rate, operations are due by the clock, and
    their latency counts from then. Nothing is tried again: what fails is counted by its kind.

    Exit status: 0 all went well, 1 something failed, 2 wrong settings. Ctrl-C ends early, with a report.
    """


@rig.command()
@_address
@_shape
@_names
@_pace
@_access
@_told
def push(**given: Any) -> None:
    """Push images: POST, PATCH and PUT for each layer and the configuration, then the manifest.

    --shared 0.5 makes the first half of the layers those of one base image: they are asked for and mounted, as docker
    does, once they are known. Registries that make no repository on push need theirs first: PREFIX/s<SEED>-r<N>.
    Without --count and --duration, 10 images.

    \b
    Examples:
      wharfage rig push 127.0.0.1:5000 --layers 10 --size 1MiB --concurrency 8
      wharfage rig push registry.example --seed 7 --size lognormal:median=1MiB,sigma=1.5 --duration 60 --json push.json
      wharfage rig push registry.example --rate 20 --ramp 10 --duration 60 --picture push.png
    """
    if given["count"] is None and given["duration"] is None:
        given["count"] = 10
    _run("push", given)


@rig.command()
@_address
@_shown("--images", metavar="N", type=click.IntRange(1, 1_000_000), default=10, help="That `push` made, the first N.")
@click.option("--repository", metavar="NAME", help="Pull from this repository, whatever pushed to it.")
@click.option("--tags", metavar="TAG,TAG", help="Of --repository.  [all that it lists]")
@click.option("--ranges", metavar="SIZE", help="A random range of each layer instead of all of it.")
@click.option("--verify", is_flag=True, help="Compare digests, too; lengths always are.")
@_names
@_pace
@_access
@_told
def pull(**given: Any) -> None:
    """Pull images by tag: the manifest, the configuration, each layer, dropped as it comes.

    The images are those that `rig push` with the same --seed, --repositories and --prefix made, or those of
    --repository. Each round takes them in an order of its own. Without --count and --duration, one round.

    \b
    Examples:
      wharfage rig pull 127.0.0.1:5000 --images 10 --duration 30 --concurrency 8 --verify
      wharfage rig pull 127.0.0.1:5000 --ranges 64KiB --rate 200 --duration 30
      wharfage rig pull registry.example --repository team/app --tags v1,v2 --count 100
    """
    if given["tags"] is not None and given["repository"] is None:
        raise click.UsageError("--tags are those of a --repository: name it")
    if given["count"] is None and given["duration"] is None and given["repository"] is None:
        given["count"] = given["images"]
    _run("pull", given)


@rig.command()
@_address
@_shown(
    "--weights",
    default="push=1,pull=8,tag=2,head=4,list=1,range=1",
    help="How often each is drawn; those left out are not.",
)
@_shown("--images", metavar="N", type=click.IntRange(1, 100_000), default=10, help="To read and to tag.")
@_shown("--ranges", default="64KiB", metavar="SIZE", help="Of each layer, for `range`.")
@_shown("--moving-tags", metavar="N", type=click.IntRange(1, 1000), default=4, help="That `tag` puts images under.")
@click.option("--verify", is_flag=True, help="Compare digests, too; lengths always are.")
@_shape
@_names
@_pace
@_access
@_told
def mix(**given: Any) -> None:
    """Do it all at once, drawn by weight: push, pull, range, tag, head, list.

    First, the --images that are not there yet in this shape are pushed; that is not measured. Then `pull` and `range`
    read them, `head` asks for their tags, `list` lists a repository's tags, `tag` puts one of the manifests under one
    of the moving tags (a tag storm is --weights tag=1), `push` pushes further images. Without --count and --duration,
    30 s.

    \b
    Examples:
      wharfage rig mix 127.0.0.1:5000 --duration 60 --concurrency 16
      wharfage rig mix 127.0.0.1:5000 --weights tag=1 --moving-tags 2 --rate 100 --duration 30
      wharfage rig mix registry.example --weights push=1,pull=20 --repositories 50 --shared 0.7 --seed 3
    """
    if given["count"] is None and given["duration"] is None:
        given["duration"] = 30.0
    _run("mix", given)


def _run(command: str, given: dict[str, Any]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    from proxy.rig import running

    wanted = running.ReportOptions(given.pop("json_file"), given.pop("picture"), given.pop("quiet"))
    password_stdin = given.pop("password_stdin")
    if password_stdin is not bool(given["username"]):
        raise click.UsageError("--username and --password-stdin go together")
    load = _made(command, given)
    password = _password() if password_stdin else ""
    try:
        number = version("wharfage")
    except PackageNotFoundError:  # run from a checkout
        number = "0"
    sys.exit(checked(lambda: running.run(load, wanted, password=password, version=number, say=click.echo)))


def _made(command: str, given: dict[str, Any]) -> Load:
    """The load that these flags ask for; `click.UsageError` names the one that is wrong."""
    from proxy.rig import plan, sizes
    from proxy.rig.crew import Pace
    from proxy.rig.running import Load
    from proxy.upstream import address

    if any(isinstance(value, float) and value != value for value in given.values()):
        raise click.UsageError("a number is needed, and NaN is none")
    base = _parsed(
        "ADDRESS",
        lambda: address.parse_address(
            given.pop("address"), plain_http=given.pop("plain_http"), trusted=given["ca"] is not None
        ),
    )
    allowed = _parsed("--allow-host", lambda: frozenset(map(address.parse_host, given.pop("allow_host"))))
    if given["concurrency"] is None:
        given["concurrency"] = _OPEN if given["rate"] else _CLOSED
    settings = {name: value for name, value in sorted(given.items()) if name not in (*_UNREPORTED, "seed")}
    weights, ranges = given.get("weights"), given.get("ranges")
    shape = plan.ImageShape(
        seed=given["seed"],
        layers=given.get("layers", 1),
        sizes=_parsed("--size", lambda: sizes.parse_sizes(given.get("size", "1MiB"))),
        shared=round(given.get("layers", 1) * given.get("shared", 0.0)),
        repositories=given["repositories"],
        prefix=_parsed("--prefix", lambda: _prefix(given["prefix"])),
    )
    pace = Pace(**{name: given[name] for name in Pace.__dataclass_fields__})
    return Load(
        command=command,
        base=base,
        shape=shape,
        pace=pace,
        images=given.get("images", 0),
        settings=settings,
        weights=None if weights is None else _parsed("--weights", lambda: plan.parse_weights(weights)),
        named=_parsed("--repository and --tags", lambda: _named(given)),
        ranges=None if ranges is None else _parsed("--ranges", lambda: sizes.parse_size(ranges)),
        verify=given.get("verify", False),
        parallel=given["parallel"],
        chunked=given.get("chunked", False),
        moving_tags=given.get("moving_tags", 1),
        allowed=allowed,
        username=given["username"] or "",
        ca=given["ca"],
    )


def _parsed(name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from None


def _prefix(prefix: str) -> str:
    from proxy.rig import plan

    plan.check_repository(f"{prefix}/s0-r0")
    return prefix


def _named(given: dict[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    from proxy.rig import plan

    if given.get("repository") is None:
        return None
    tags = tuple(given["tags"].split(",")) if given["tags"] is not None else ()
    for tag in tags:
        if not plan.is_tag(tag):
            raise ValueError(f"{tag[:64]!r} is no tag")
    return plan.check_repository(given["repository"]), tags


def _password() -> str:
    """The first line of standard input."""
    line = sys.stdin.buffer.readline(_PASSWORD_MOST + 1)
    if len(line) > _PASSWORD_MOST:
        raise click.UsageError("what comes on standard input is too long for a password")
    try:
        password = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("what comes on standard input is no password: it is not UTF-8") from None
    if not password:
        raise click.UsageError("no password came on standard input")
    return password


COMMANDS: tuple[click.Command, ...] = (rig,)
"""For `cli`."""
