"""Values that a hostile or careless client sends: drawn at random, by member name where a name says what would fit.

`bend` changes an operation's parameters somewhere; `fitting` gives a member that the model knows a value that might do;
`spoil` edits a text. Everything is drawn from the `Random` that is given, so that a seed is a whole run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from random import Random
from typing import Any

from proxy.awsmodel import models
from support.examples import ACCOUNT, KEY, REGISTRY, REPOSITORY, ROLE, SHARED, repository
from support.examples_iam import OWN, PROVIDER, PULL_ONLY, PULLS, TRUST

TEXTS = (
    *("", " ", "\0", "a\0b", "*", "?", "..", "../..", "%2e%2e", "%", "%zz", "+", "&", "=", "a=b&c=d", ";", "/", "//"),
    *("/a/", "\\", "'", '"', "<x>", "]]>", "&amp;", "&#0;", "\r\n", "\t", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e"),
    *("é", "Ａ", "ı", "ß", "😀", "\ud800", "\udcff", "e\u0301", "0", "-1", "1", "1.5", "1e5", "NaN", "null", "None"),
    *("true", "TRUE", "yes", "99999999999999999999", "0x10", "${aws:username}", "${*}", "$" + "{" * 50, "aws:x"),
    *(
        "123456789012",
        "000000000000",
        "1234567890123",
        "１２３４５６７８９０１２",
        "v1",
        "latest",
        "sha256:" + "0" * 64,
    ),
    *("sha256:", "sha512:" + "a" * 128, "md5:x", "A" * 129, "a" * 257, "a" * 2049, "b" * 20_000, "{}", "[]", "AWS"),
    *("arn:aws:iam::*:user/*", "arn:aws:iam::123456789012:root", "arn:aws:ecr:us-east-1:123456789012:repository/"),
    *("arn:aws:ecr:us-east-1:123456789012:repository/a*", ":" * 6, "arn:" + ":" * 300, "https://", "https://x:y@z/"),
)
OTHERS: tuple[Any, ...] = (None, True, False, 0, -1, 1, 1000, 1.5, -0.0, 1e308, 2**31, 2**63, 10**30, [], {}, [[]])
OTHERS += ([None], {"": ""}, [{}], {"a": {"b": [1, "2"]}}, ["x"] * 101, {"Key": "a", "Value": "b"})

POLICIES = (
    *(SHARED, REGISTRY, PULLS, TRUST, "{}", "[]", "null", "1", "{", '{"Statement": []}', '{"Version": "2012-10-17"}'),
    *('{"Version":"2008-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"ecr:PutImage"}}',),
    *('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":"iam:*","NotResource":"*"}]}',),
    *('{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"aws:x":"true"}}}]}',),
    *('{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:x":"1"}}}]}',),
    *("[" * 5000, '{"a":' * 2000, '{"Statement":' + "[" * 900 + "]" * 900 + "}"),
)

FITTING: Mapping[str, tuple[Any, ...]] = {
    "repositoryname": (REPOSITORY, "gone/app", "new/app", "tagged", "bare", "a/b", "zz"),
    "registryid": (ACCOUNT, "210987654321", "999999999999"),
    "resourcearn": tuple(repository(name) for name in (REPOSITORY, "tagged", "bare", "none")),
    "policytext": POLICIES,
    "policydocument": POLICIES,
    "assumerolepolicydocument": POLICIES,
    "policyinputlist": tuple([each] for each in POLICIES),
    "policy": POLICIES,
    "imagetag": ("v1", "v2", "latest", "x"),
    "imagedigest": ("sha256:" + "0" * 64,),
    "nexttoken": ("x", "AAAA", "eyJhIjoxfQ==", ""),
    "marker": ("x", "AAAA", "eyJhIjoxfQ==", ""),
    "username": ("ann", "two", "new", "gone", "old", "Ann", "ANN"),
    "newusername": ("renamed", "ann", "two2"),
    "groupname": ("anns", "news", "gones", "olds"),
    "newgroupname": ("renameds", "anns"),
    "rolename": ("ann-role", "new", "gone"),
    "policyname": ("own", "a", "new", "gone"),
    "policyarn": (OWN, PULL_ONLY, OWN.replace("own", "new"), OWN.replace("own", "gone")),
    "permissionsboundary": (OWN, PULL_ONLY),
    "rolearn": (ROLE, ROLE.replace("ann-role", "none"), ROLE.replace(ACCOUNT, "210987654321")),
    "rolesessionname": ("build", "b", "a@b=c,d"),
    "policysourcearn": tuple(f"arn:aws:iam::{ACCOUNT}:{each}" for each in ("user/ann", "group/anns", "role/ann-role")),
    "openidconnectproviderarn": (PROVIDER, PROVIDER.replace("issuer", "gone"), PROVIDER.replace("issuer", "new")),
    "url": ("https://issuer.example.com", "https://other.example.com/p", "http://x", "https://1.2.3.4"),
    "accesskeyid": (KEY, "AKIASPECIMENS0000009", "ASIAXXXXXXXXXXXXXXXX"),
    "pathprefix": ("/", "/p/", "/aws-service-role/", "/q"),
    "path": ("/", "/p/", "/a/b/", "p"),
    "versionid": ("v1", "v2", "v9", "v0"),
    "status": ("Active", "Inactive", "Expired"),
    "name": ("BLOB_MOUNTING", "REGISTRY_POLICY_SCOPE", "BASIC_SCAN_TYPE_VERSION", "X"),
    "value": ("ENABLED", "DISABLED", "V1", "V2", "CLAIR", "x"),
    "actionnames": (["ecr:PutImage"], ["*"], ["iam:CreateUser", "nonsense"], ["a:b"] * 50),
    "resourcearns": ([repository("*")], ["*"], ["arn:aws:iam::1:x"]),
    "webidentitytoken": ("a.b.c", "eyJhbGciOiJub25lIn0.e30.", "x" * 5000, "..", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"),
    "durationseconds": (900, 3600, 43_200, 0, -1, 10**9),
    "maxsessionduration": (3600, 43_200, 1),
    "maxitems": (1, 2, 1000, 0, 1001),
    "maxresults": (1, 2, 1000, 0, 1001),
}


def text(rng: Random) -> str:
    """Some odd text, now and then a long or a random one."""
    chosen = rng.randrange(10)
    if chosen < 7:
        return rng.choice(TEXTS)
    if chosen < 8:
        return "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800)))) for _ in range(rng.randrange(40))
        )
    return spoil(rng, rng.choice(TEXTS))


def value(rng: Random, name: str = "") -> Any:
    """Anything, or what might fit a member of this name."""
    fitting_values = FITTING.get(name.lower())
    if fitting_values is not None and rng.random() < 0.6:
        found = rng.choice(fitting_values)
        return spoil(rng, found) if isinstance(found, str) and rng.random() < 0.2 else copy.deepcopy(found)
    return text(rng) if rng.random() < 0.6 else copy.deepcopy(rng.choice(OTHERS))


def spoil(rng: Random, given: str) -> str:
    """The text with a few letters lost, doubled or replaced."""
    letters = list(given)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(letters) + 1)
        match rng.randrange(3):
            case 0:
                letters[at : at + rng.randrange(1, 4)] = []
            case 1:
                letters[at:at] = letters[max(0, at - 3) : at]
            case _:
                letters[at : at + 1] = rng.choice('"{}[]:,/*?%&=+.-_ \0\n\\aA0é')
    return "".join(letters)


def bend(rng: Random, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that is wrong, or only other, in one to three places."""
    bent: dict[str, Any] = copy.deepcopy(dict(parameters))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        match rng.randrange(6):
            case 0 | 1:
                _replace(rng, bent)
            case 2:
                if bent:
                    del bent[rng.choice(list(bent))]
            case 3 | 4:
                _add_known(rng, service, operation, bent)
            case _:
                bent[text(rng)[:300] if rng.random() < 0.5 else "member"] = value(rng)
    return bent


def fitting(rng: Random, service: str, shape_name: str, name: str, depth: int = 0) -> Any:
    """A value of the shape, so far as the model tells; its texts are drawn by the names of their members."""
    shape = models.shape(service, shape_name)
    kind = shape["type"]
    if kind == "structure":
        members = list(shape["members"].items())
        chosen = [each for each in members if each[0] in shape.get("required", ()) or rng.random() < 0.5]
        return {member: fitting(rng, service, of["shape"], member, depth + 1) for member, of in chosen}
    if kind == "list":
        return [fitting(rng, service, shape["member"]["shape"], name, depth + 1) for _ in range(rng.randrange(4))]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind in ("integer", "long"):
        return rng.choice((shape.get("min", 0), shape.get("max", 10), rng.randrange(-5, 2000)))
    if "enum" in shape and rng.random() < 0.8:
        return rng.choice(shape["enum"])
    found = value(rng, name)
    return found if isinstance(found, str) else json.dumps(found)


def whole(rng: Random, service: str, operation: str) -> dict[str, Any]:
    """Parameters as the model has them, each of which might do."""
    shape = models.service(service)["operations"][operation].get("input", {}).get("shape")
    found: dict[str, Any] = {} if shape is None else fitting(rng, service, shape, "")
    return found


def _replace(rng: Random, bent: dict[str, Any]) -> None:
    """Some value, at any depth."""
    at: Any = bent
    while True:
        places = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not places:
            return
        place = rng.choice(places)
        inner = at[place]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            at = inner
            continue
        if isinstance(inner, str) and rng.random() < 0.3:
            at[place] = spoil(rng, inner)
        else:
            at[place] = value(rng, place if isinstance(place, str) else "")
        return


def _add_known(rng: Random, service: str, operation: str, bent: dict[str, Any]) -> None:
    shape = models.service(service)["operations"][operation].get("input", {}).get("shape")
    members = models.shape(service, shape)["members"] if shape is not None else {}
    if members:
        member = rng.choice(list(members))
        bent[member] = fitting(rng, service, members[member]["shape"], member)
