"""Every answer of every operation that is served, as a client reads it: by the model, whole, as AWS documents it."""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from proxy.auth.policy.decision import Decision
from proxy.awsmodel import models
from proxy.ecr.routes import ROUTES
from proxy.ecr.sts.issuers import Issuers
from support import response_shapes
from support.examples import ACCOUNT, ECR, ROLE, STS, Example, document, settle
from support.examples_iam import IAM
from support.issuer import Issuer
from support.memory_connection import Answer, MemoryConnection
from support.recording_access import RecordingAccess
from support.registry_client import RegistryClient, raw_request, registry_client, written
from support.required_members import ALWAYS
from support.sigv4_signer import Credentials, Scope, signed
from support.whole_registry import whole_registry

SERVICES: Mapping[str, Sequence[Example]] = {"ecr": ECR, "sts": STS, "iam": IAM}

UNSENT: Mapping[tuple[str, str], str] = {
    ("GetRole", "Role.RoleLastUsed.LastUsedDate"): "the role was never taken",
    ("GetRole", "Role.RoleLastUsed.Region"): "the role was never taken",
    ("ListUsers", "Users.PasswordLastUsed"): "nobody has a password",
    ("ListVirtualMFADevices", "VirtualMFADevices.SerialNumber"): "nobody has a device",
    **{
        ("ListSigningCertificates", f"Certificates.{member}"): "nobody has a certificate"
        for member in ("CertificateBody", "CertificateId", "Status", "UploadDate", "UserName")
    },
}
"""By operation and member: what an example of AWS's shows and we do not send, and why."""

NOT_ALWAYS: Mapping[str, str] = {
    "GetSigningConfigurationResponse": "nothing is signed: its answer is an error",
    "ImageIdentifier": "of a failure it is what was asked for, of an untagged image a digest alone",
    "ImageScanFindingsSummary": "nothing is scanned",
    "ImageScanStatus": "nothing is scanned",
}
"""Structures of ECR's answers of which no member is always sent, and why."""


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.mark.parametrize("service", SERVICES)
async def test_an_answer_is_its_models_output_and_botocore_reads_all_of_it(doors: RegistryClient, service: str) -> None:
    for example in SERVICES[service]:
        answer = await _asked(doors, example)
        if example.error:
            assert answer.status in (400, 403, 404)
            continue
        assert answer.status == 200, (example.operation, answer.body)
        said = response_shapes.read(service, example.operation, answer.body)
        assert _plain(_by_botocore(service, example.operation, answer)) == _plain(said), example.operation


@pytest.mark.parametrize("service", SERVICES)
async def test_an_answer_has_every_member_that_awss_own_example_of_it_has(doors: RegistryClient, service: str) -> None:
    documented = _examples(service)
    missing = []
    for example in SERVICES[service]:
        if example.error or example.operation not in documented:
            continue
        said = response_shapes.read(service, example.operation, (await _asked(doors, example)).body)
        sent = set(_members(said))
        missing += [
            (example.operation, member)
            for answer in documented[example.operation]
            for member in _members(answer)
            if member not in sent and (example.operation, member) not in UNSENT
        ]
    assert sorted(set(missing)) == []


async def test_a_web_identitys_answer_is_its_models_output(tmp_path: Path, issuer: Issuer) -> None:
    await issuer.begin()
    issuers = Issuers([issuer.url], tls=issuer.trusting, clock=time.monotonic)
    async with registry_client(tmp_path, issuers=issuers) as doors:
        provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{issuer.url.removeprefix('https://')}"
        trust = {"Effect": "Allow", "Principal": {"Federated": provider}, "Action": "sts:AssumeRoleWithWebIdentity"}
        made = {"Url": issuer.url, "ClientIDList": ["sts.amazonaws.com"]}
        trusting = {"RoleName": "ann-role", "PolicyDocument": document(trust)}
        await settle(
            doors.registry.metadata,
            [("iam", "CreateOpenIDConnectProvider", made), ("iam", "UpdateAssumeRolePolicy", trusting)],
        )
        token = issuer.token()
        asked = {"RoleArn": ROLE, "RoleSessionName": "build", "WebIdentityToken": token}
        answer = await doors.ask("sts", "AssumeRoleWithWebIdentity", asked, None)
    await issuer.finish()
    assert answer.status == 200, answer.body
    said = response_shapes.read("sts", "AssumeRoleWithWebIdentity", answer.body)
    assert _plain(_by_botocore("sts", "AssumeRoleWithWebIdentity", answer)) == _plain(said)
    (example,) = _examples("sts")["AssumeRoleWithWebIdentity"]
    assert set(_members(example)) - set(_members(said)) == {"PackedPolicySize"}  # no policy and no tag was packed


class _Broken(RecordingAccess):
    async def decide(self, *asked: Any, below: bool = False) -> Decision:
        raise RuntimeError("a bug, and text that nobody may see")


async def test_a_bug_is_an_error_that_each_apis_clients_can_read(tmp_path: Path) -> None:
    said = {}
    async with whole_registry(tmp_path, access=_Broken()) as registry:
        who = Credentials(*await registry.give_key(ACCOUNT, "administrator"))
        line = MemoryConnection(registry.server)
        for service, operation in (("ecr", "DescribeRepositories"), ("iam", "ListUsers")):
            lines, body = written(service, operation, {})
            answer = await line.ask(
                raw_request("POST", "/", signed("POST", "/", lines, body, who, Scope(service)), body)
            )
            assert answer is not None
            assert answer.status == 500
            assert b"nobody may see" not in answer.body
            said[service] = _by_botocore(service, operation, answer)["Error"]["Code"]
        await line.close()
    assert said == {"ecr": "ServerException", "iam": "InternalFailure"}


def test_what_is_always_sent_is_stated_of_each_structure_that_ecr_answers_with() -> None:
    """By the model, by the table, or that there is nothing."""
    operations = models.service("ecr")["operations"]
    answers = {name for each in ROUTES for name in _structures(operations[each]["output"]["shape"])}
    stated = {name for name in answers if models.shape("ecr", name).get("required")} | ALWAYS["ecr"].keys()
    empty = {name for name in answers if not models.shape("ecr", name)["members"]}
    assert answers - stated - empty == NOT_ALWAYS.keys()
    assert not stated & NOT_ALWAYS.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_always_sent_is_a_member_of_its_structure(service: str) -> None:
    for name, members in ALWAYS[service].items():
        assert set(members) <= models.shape(service, name)["members"].keys(), name


def test_what_is_left_out_is_in_an_example() -> None:
    shown = {
        (operation, member)
        for service in SERVICES
        for operation, examples in _examples(service).items()
        for example in examples
        for member in _members(example)
    }
    assert set(UNSENT) <= shown


async def _asked(doors: RegistryClient, example: Example) -> Answer:
    await settle(doors.registry.metadata, example.before)
    who = None if example.operation == "AssumeRoleWithWebIdentity" else doors.keys["administrator"]
    return await doors.ask(example.service, example.operation, example.parameters, who)


def _structures(name: str, found: frozenset[str] = frozenset()) -> frozenset[str]:
    """The structures in a shape of ECR's, itself too."""
    shape = models.shape("ecr", name)
    if shape["type"] == "list":
        return _structures(shape["member"]["shape"], found)
    if shape["type"] != "structure" or name in found:
        return found
    for member in shape["members"].values():
        found = _structures(member["shape"], found | {name})
    return found | {name}


@cache
def _examples(service: str) -> Mapping[str, Sequence[Any]]:
    """The outputs in AWS's documentation, by operation, as botocore ships them."""
    data = Loader().load_data(f"{service}/{models.VERSIONS[service]}/examples-1")["examples"]
    return {name: [each["output"] for each in shown if each.get("output")] for name, shown in data.items()}


def _members(value: Any, path: str = "") -> Iterator[str]:
    """Paths of the members that hold something; what is in a list is without its place."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            here = f"{path}.{name}" if path else name
            yield here
            if name != "SummaryMap":
                yield from _members(inner, here)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _members(inner, path)


def _by_botocore(service: str, operation: str, answer: Answer) -> Mapping[str, Any]:
    model = ServiceModel(models.service(service), service)
    parser = create_parser(model.metadata["protocol"])
    shape = model.operation_model(operation).output_shape
    response = {"status_code": answer.status, "headers": answer.headers, "body": answer.body}
    found: Mapping[str, Any] = parser.parse(response, shape)
    return {name: value for name, value in found.items() if name != "ResponseMetadata"}


def _plain(value: Any) -> Any:
    """With moments as numbers, to the millisecond, and without lists that are empty or not there."""
    if isinstance(value, datetime.datetime):
        return round(value.timestamp(), 3)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items() if inner != []}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return round(value, 3) if isinstance(value, float) else value
