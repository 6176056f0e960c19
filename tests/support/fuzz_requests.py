"""Random requests to all four handlers: valid ones, bent where it may hurt, signed after or before that.

api, signed anew       parameters, form, body, header lines, target and method are bent, and the signature is right,
                       so that what is bent reaches the operations
api, spoiled           a valid request whose signature, date, lines or bytes are bent afterwards
layers                 parts cut and out of order, links tampered with (`fuzz_layers`)
docker                 every route under `/v2/`, with names, references, queries, ranges and bodies that may fit
docker, spoiled        the same with its bytes bent
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from proxy.awsmodel import models
from support import fuzz_layers, fuzz_values
from support.examples import ECR, STS, Example
from support.examples_iam import IAM
from support.fuzz_input import HOSTS, METHODS, Drawn, Known, is_http, printable, spoil_bytes, spoiled
from support.fuzz_oci import docker
from support.registry_client import FORM_TYPE, HOST, TARGET, form, raw_request, urlencoded, written
from support.sigv4_signer import Credentials, Lines, Scope, presigned, signed

EXAMPLES: Mapping[str, Sequence[Example]] = {"ecr": ECR, "sts": STS, "iam": IAM}


def draw(rng: Random, known: Known) -> Drawn:
    kind = rng.random()
    if kind < 0.55:
        return _signed_anew(rng, known)
    if kind < 0.68:
        return _spoiled_signature(rng, known)
    if kind < 0.70 and known.parted:
        return fuzz_layers.part(rng, known)
    if kind < 0.72 and known.links:
        return fuzz_layers.link(rng, known)
    if kind < 0.95:
        return docker(rng, known)
    return spoiled(rng, docker(rng, known))


# ---- the APIs -----------------------------------------------------------------------------------------------------


def _example(rng: Random) -> Example:
    return rng.choice(EXAMPLES[rng.choices(("ecr", "sts", "iam"), (4, 2, 4))[0]])


def _who(rng: Random, known: Known) -> Credentials:
    """Mostly the first, who may do everything."""
    return known.signers[0] if rng.random() < 0.75 else rng.choice(known.signers)


def _signed_anew(rng: Random, known: Known) -> Drawn:
    chosen = _example(rng)
    service, operation, parameters = chosen.service, chosen.operation, chosen.parameters
    if rng.random() < 0.04:  # any that its model has, served or not
        operation = rng.choice(sorted(models.operations(service)))
        parameters = fuzz_values.whole(rng, service, operation)
    if rng.random() < 0.75:
        parameters = fuzz_values.bend(rng, service, operation, parameters)
    lines, body = _written(rng, service, operation, parameters)
    method, target, said_in = "POST", "/", service
    if rng.random() < 0.12:
        body = spoil_bytes(rng, body)
    if rng.random() < 0.15:
        lines = _other_lines(rng, lines)
        said_in = ""
    if rng.random() < 0.06:
        method, target, said_in = (
            rng.choice(METHODS),
            rng.choice(("/", "/", "/?", "/?x=y", "/?Action=X", "/%2e", "//")),
            "",
        )
    who = None if operation == "AssumeRoleWithWebIdentity" and rng.random() < 0.9 else _who(rng, known)
    if who is None:
        said_in = "sts" if said_in else ""
    elif (scope := _scope(rng, service)).service != service and service != "ecr":
        said_in, lines = "", signed(method, target, lines, body, who, scope)
    elif service != "ecr" and rng.random() < 0.1:
        if rng.random() < 0.5 and len(body) < 6000 and "%" not in target:
            method, target, body = "GET", "/?" + body.decode("latin-1").replace(" ", "+"), b""
            said_in = ""
        target, said_in = presigned(method, target, lines, body, who, scope), ""
    else:
        lines = signed(method, target, lines, body, who, scope)
    return Drawn(
        raw_request(method, target, lines, body),
        method == "HEAD",
        is_http(method, target, lines),
        said_in,
        operation if said_in else "",
        signed_anew=True,
    )


def _scope(rng: Random, service: str) -> Scope:
    if rng.random() < 0.97:
        return Scope(service)
    return Scope(rng.choice(("ecr", "sts", "iam", "s3")), rng.choice(("us-east-1", "eu-west-1")))


def _written(rng: Random, service: str, operation: str, parameters: Mapping[str, Any]) -> tuple[Lines, bytes]:
    if service == "ecr":
        lines = [("Host", HOST), ("X-Amz-Target", TARGET + operation), ("Content-Type", "application/x-amz-json-1.1")]
        return lines, json.dumps(parameters, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    fields = [("Action", operation), ("Version", models.VERSIONS[service]), *form(parameters)]
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        fields = _other_fields(rng, fields)
    return [("Host", HOST), ("Content-Type", FORM_TYPE)], urlencoded(fields).encode()


def _other_fields(rng: Random, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    at = rng.randrange(len(fields)) if fields else 0
    match rng.randrange(7):
        case 0:
            return fields[:at] + fields[at + 1 :]
        case 1:
            return [*fields, *fields[at : at + 1]]
        case 2:
            return [
                (name.replace("member.1", rng.choice(("member.0", "member", "member.99", "x.1"))), value)
                for name, value in fields
            ]
        case 3:
            return [*fields, (f"{fuzz_values.text(rng)[:50]}.member.1", "x")]
        case 4:
            return [*fields, *((f"Tags.member.{n}.Key", "a") for n in range(rng.choice((60, 1100))))]
        case 5:
            return [(name, fuzz_values.text(rng) if at == n else value) for n, (name, value) in enumerate(fields)]
        case _:
            return [*fields, (rng.choice(("A.B.C", "Tags", "Tags.member.1", ".", "a..b", "Policy.x")), "y")]


def _other_lines(rng: Random, lines: Lines) -> Lines:
    """Lines that an HTTP parser takes, and that mean something else."""
    changed = list(lines)
    match rng.randrange(7):
        case 0:
            changed[0] = ("Host", rng.choice(HOSTS))
        case 1:
            del changed[rng.randrange(1, len(changed))]
        case 2:
            name, value = rng.choice(changed[1:])
            changed.append((name, value + rng.choice(("", "x", ", y"))))
        case 3:
            changed[-1] = (
                "Content-Type",
                rng.choice(("", "text/plain", FORM_TYPE, "application/json", 'a/b; c="', "é")),
            )
        case 4:
            changed.append(("X-Amz-Target", rng.choice(("", TARGET, TARGET + "X" * 300, "Other.ListImages", "é" * 40))))
        case 5:
            changed.append(
                (rng.choice(("Content-Encoding", "Content-MD5", "X-Forwarded-For", "User-Agent", "Cookie")), _word(rng))
            )
        case _:
            changed.append(
                (
                    "X-Amz-Content-Sha256",
                    rng.choice(("UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0" * 64, "x")),
                )
            )
    return changed


def _word(rng: Random) -> str:
    """A text that may stand in a header line."""
    return printable(fuzz_values.text(rng)[:500])


def _spoiled_signature(rng: Random, known: Known) -> Drawn:
    chosen = _example(rng)
    lines, body = written(chosen.service, chosen.operation, chosen.parameters)
    lines = signed("POST", "/", lines, body, _who(rng, known), Scope(chosen.service))
    choice = rng.randrange(6)
    if choice == 0:
        return spoiled(rng, Drawn(raw_request("POST", "/", lines, body), False, True, ""))
    if choice == 1:
        body = spoil_bytes(rng, body)
    elif choice == 2:
        del lines[rng.randrange(1, len(lines))]
    elif choice == 3:
        name, value = lines[-1]
        lines[-1] = (name, printable(fuzz_values.spoil(rng, value)))
    elif choice == 4:
        at = rng.randrange(1, len(lines))
        lines[at] = (lines[at][0], printable(fuzz_values.spoil(rng, lines[at][1])))
    else:
        lines.append(rng.choice(lines[1:]))
    return Drawn(raw_request("POST", "/", lines, body), False, True, "")
