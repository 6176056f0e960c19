"""What the fuzzers of all handlers share: a request, allowed answers, header and framing, spoiled bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from support.sigv4_signer import Credentials, Lines

METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X-Y")
HOSTS = (
    *("", "x" * 300, "a b", "127.0.0.1:5000", "[::1]:5000", "123456789012.dkr.ecr.us-east-1.registry.example"),
    *("210987654321.dkr.ecr.us-east-1.registry.example", "000000000000.dkr.ecr.us-east-1.registry.example"),
    *("123456789012.dkr.ecr.eu-west-1.registry.example", "iam.registry.example", "sts.us-east-1.registry.example"),
    *("ecr.us-east-1.registry.example", "api.ecr.mars-1.registry.example", "é.example", 'x"y', ".registry.example"),
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """`whole`: HTTP says it is one request, so it must be answered, by a door. `said_in`: the API whose words the
    answer is in, `oci`, `link`, or empty where that is not certain; `operation`: which it is, if it comes that far."""

    raw: bytes
    is_head: bool
    whole: bool
    said_in: str
    operation: str = ""
    signed_anew: bool = False


@dataclass(slots=True)
class Known:
    """What requests are drawn from: who can sign or log in, and what answers have told of uploads, of those that take
    parts, and of links to layers."""

    signers: Sequence[Credentials]
    passwords: Sequence[str] = field(repr=False)
    digests: Sequence[str]
    uploads: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    parted: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    links: deque[str] = field(default_factory=lambda: deque(maxlen=8), repr=False)


def spoiled(rng: Random, drawn: Drawn) -> Drawn:
    """The bytes of the head or the framing bent: whether HTTP takes it is open."""
    head, _, body = drawn.raw.partition(b"\r\n\r\n")
    match rng.randrange(5):
        case 0:
            head = spoil_bytes(rng, head)
        case 1:
            head += rng.choice(
                (
                    b"\r\nContent-Length: 5",
                    b"\r\nContent-Length: -1",
                    b"\r\nTransfer-Encoding: chunked",
                    b"\r\nTransfer-Encoding: gzip",
                    b"\r\nExpect: 100-continue",
                    b"\r\nX: " + b"y" * 40_000,
                    b"\r\nConnection: upgrade\r\nUpgrade: websocket",
                    b"\r\nX\0Y: z",
                    b"\r\n folded: x",
                    b"\r\nHost: other",
                )
            )
        case 2:
            head = head.replace(b"HTTP/1.1", rng.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"HTTP/1.1 x")), 1)
        case 3:
            head = head.replace(b" /", rng.choice((b" http://other/", b" *", b" ", b" /%", b" /\xff", b" ../")), 1)
        case _:
            body = body[: rng.randrange(len(body) + 1)] if body else body
            head = head if body else spoil_bytes(rng, head)
    return Drawn(head + b"\r\n\r\n" + body, drawn.is_head, False, "")


def spoil_bytes(rng: Random, given: bytes) -> bytes:
    changed = bytearray(given)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(3):
            case 0:
                changed[at : at + rng.randrange(1, 5)] = b""
            case 1:
                changed[at:at] = changed[max(0, at - 6) : at]
            case _:
                changed[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(changed)


def printable(text: str) -> str:
    return "".join(each for each in text if each.isascii() and each.isprintable()).strip()


def is_http(method: str, target: str, lines: Lines) -> bool:
    """Whether every parser would take it for a request, within the server's limits."""
    letters = method.isascii() and target.isascii() and target.isprintable() and " " not in target
    hosts = [value for name, value in lines if name == "Host"]
    known = method.isupper() and method.isalpha() and method != "CONNECT"
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in lines)
    return letters and known and all(value.isascii() for value in hosts) and size < 15_000
