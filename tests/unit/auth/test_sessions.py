"""Session tokens carry a whole session, sealed: they open to what was put in, and to nothing else."""

from __future__ import annotations

import base64
import dataclasses
import random
import re
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.envelope import SmallSealer
from proxy.auth.sealed_json import INFLATED_MAX, open_document, seal_document
from proxy.auth.sessions import (
    PACKED_MAX,
    PURPOSE,
    TOKEN_MAX,
    SessionExpired,
    SessionInvalid,
    Sessions,
    pack,
    packed_percent,
    reaches,
    unpack,
)
from proxy.model.identity import Principal, PrincipalKind, Session, SessionKind

KEYS = [("key-1", bytes(range(32)))]
NOW = 1_800_000_000.0
ROLE = Principal("AROACI", "123456789012", "arn:aws:iam::123456789012:role/ci", "ci", PrincipalKind.ROLE)
PLAIN = Session(SessionKind.ROLE, "build-7", NOW, NOW + 3600)
WHOLE = Session(
    SessionKind.ROLE,
    "build-7",
    NOW,
    NOW + 3600,
    policy='{"Version":"2012-10-17","Statement":[]}',
    policy_arns=("arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::123456789012:policy/p"),
    tags=(("team", "öl"), ("empty", "")),
    transitive=("team",),
    source_identity="anna",
    chained=True,
    claims=(("aws:federatedprovider", "arn:aws:iam::123456789012:oidc-provider/idp.example"),),
    mfa=True,
)


def sealer(purpose: str = PURPOSE) -> SmallSealer:
    return SmallSealer(KEYS, purpose)


def sessions() -> Sessions:
    return Sessions(sealer())


@pytest.mark.parametrize("session", [PLAIN, WHOLE, Session(SessionKind.USER, "", NOW, NOW + 900)])
def test_a_token_opens_to_its_key_its_principal_and_the_whole_session(session: Session) -> None:
    made = sessions().issue(ROLE, session)
    found = sessions().open(made.token, NOW)
    assert (found.access_key_id, found.secret) == (made.access_key_id, made.secret)
    assert (found.principal_id, found.account, found.session) == ("AROACI", "123456789012", session)
    assert made.expires == session.expires


def test_the_key_has_the_form_of_temporary_ones_and_no_two_are_alike() -> None:
    made = [sessions().issue(ROLE, PLAIN) for _ in range(50)]
    assert all(re.fullmatch(r"ASIA[A-Z2-7]{16}", each.access_key_id) for each in made)
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{40}", each.secret) for each in made)
    assert len({each.access_key_id for each in made} | {each.secret for each in made}) == 100


def test_neither_record_shows_its_secret() -> None:
    made = sessions().issue(ROLE, PLAIN)
    shown = repr(made) + repr(sessions().open(made.token, NOW))
    assert made.secret not in shown
    assert made.token not in shown


def test_a_token_is_good_until_its_last_second() -> None:
    made = sessions().issue(ROLE, PLAIN)
    assert sessions().open(made.token, NOW + 3599.9).session == PLAIN
    with pytest.raises(SessionExpired):
        sessions().open(made.token, NOW + 3600)


def test_every_altered_letter_and_every_cut_is_noticed() -> None:
    token = sessions().issue(ROLE, PLAIN).token
    for at in range(len(token)):
        altered = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        for wrong in (altered, token[:at]):
            with pytest.raises(SessionInvalid):
                sessions().open(wrong, NOW)


@pytest.mark.parametrize(
    "made", [Sessions(sealer("authorization-token")), Sessions(SmallSealer([("key-1", bytes(32))], PURPOSE))]
)
def test_another_purpose_or_key_does_not_open_and_is_not_called_expired(made: Sessions) -> None:
    with pytest.raises(SessionInvalid):
        sessions().open(made.issue(ROLE, PLAIN).token, NOW + 9999)


@given(st.text(max_size=200))
def test_any_other_text_is_invalid(text: str) -> None:
    with pytest.raises(SessionInvalid):
        sessions().open(text, NOW)


def test_a_text_over_the_limit_is_invalid() -> None:
    with pytest.raises(SessionInvalid):
        sessions().open("A" * (TOKEN_MAX + 1), NOW)


GOOD: dict[str, Any] = {"v": 1, "k": "ASIAX", "x": "secret", "p": "AROACI", "a": "123456789012", "s": pack(WHOLE)}

WRONG_MEMBERS: list[dict[str, Any]] = [
    {"k": "root"},
    {"n": None},
    {"i": "1"},
    {"e": True},
    {"p": 1},
    {"r": "arn"},
    {"r": [1]},
    {"t": [["a"]]},
    {"t": [["a", 1]]},
    {"t": 1},
    {"y": {"a": 1}},
    {"o": []},
    {"w": ["abc"]},
    {"z": "what a newer server says"},
]


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        "text",
        {},
        GOOD | {"v": 2},
        GOOD | {"k": 1},
        GOOD | {"x": None},
        GOOD | {"s": []},
        GOOD | {"s": {}},
        *(GOOD | {"s": pack(WHOLE) | member} for member in WRONG_MEMBERS),
    ],
)
def test_sealed_documents_that_are_never_issued_are_invalid(document: Any) -> None:
    with pytest.raises(SessionInvalid):
        sessions().open(seal_document(sealer(), document), NOW)


def test_the_exception_does_not_carry_the_token() -> None:
    with pytest.raises(SessionInvalid) as caught:
        sessions().open("secret-looking-text", NOW)
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("kind", "service", "action", "expected"),
    [
        (None, "iam", "CreateUser", True),
        (None, "sts", "GetSessionToken", True),
        (SessionKind.USER, "iam", "GetUser", False),
        (SessionKind.USER, "sts", "GetSessionToken", False),
        (SessionKind.USER, "sts", "GetAccessKeyInfo", False),
        (SessionKind.USER, "sts", "AssumeRole", True),
        (SessionKind.USER, "sts", "GetCallerIdentity", True),
        (SessionKind.USER, "ecr", "PutImage", True),
        (SessionKind.ROLE, "iam", "CreateUser", True),
        (SessionKind.ROLE, "sts", "AssumeRole", True),
        (SessionKind.ROLE, "sts", "GetSessionToken", False),
    ],
)
def test_credentials_reach_what_their_kind_may_ask_for(
    kind: SessionKind | None, service: str, action: str, expected: bool
) -> None:
    session = None if kind is None else Session(kind, "s", NOW, NOW + 900)
    assert reaches(session, service, action) is expected


texts = st.text(st.characters(codec="utf-8"), max_size=30)
pairs = st.lists(st.tuples(texts, texts), max_size=5).map(tuple)


@given(
    st.builds(
        Session,
        kind=st.sampled_from(SessionKind),
        name=texts,
        issued=st.integers(0, 2**33).map(float),
        expires=st.integers(0, 2**33).map(float),
        policy=texts,
        policy_arns=st.lists(texts, max_size=3).map(tuple),
        tags=pairs,
        transitive=st.lists(texts, max_size=3).map(tuple),
        source_identity=texts,
        chained=st.booleans(),
        claims=pairs,
        mfa=st.booleans(),
    )
)
def test_unpack_is_the_inverse_of_pack(session: Session) -> None:
    assert unpack(pack(session)) == session


def test_what_is_packed_to_the_limit_still_fits_a_token() -> None:
    """The bound that STS holds a session to is the one under which every session can be issued."""
    letters, chance = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+=,.@-", random.Random(1)

    def word(length: int) -> str:
        return "".join(chance.choice(letters) for _ in range(length))

    tags: tuple[tuple[str, str], ...] = ()
    while packed_percent("", (), more := (*tags, (word(20), word(30)))) <= 100:
        tags = more
    claims = tuple((word(255), word(255)) for _ in range(2))
    full = dataclasses.replace(PLAIN, name=word(64), source_identity=word(64), tags=tags, claims=claims)
    assert len(tags) > 30
    assert len(sessions().issue(ROLE, full).token) <= TOKEN_MAX


def test_more_than_can_be_opened_is_not_issued() -> None:
    noise = "".join(chr(0x4E00 + (at * 7919) % 20_000) for at in range(8_000))
    with pytest.raises(ValueError, match="larger than any"):
        sessions().issue(ROLE, dataclasses.replace(PLAIN, policy=noise))
    with pytest.raises(ValueError, match="larger than any"):
        seal_document(sealer(), "a" * INFLATED_MAX)


def test_the_percentage_is_of_two_kilobytes_packed() -> None:
    assert packed_percent("", (), ()) <= 2
    assert packed_percent("a" * PACKED_MAX, (), ()) < 10  # it compresses
    assert packed_percent("", (), tuple((f"key{at * 7919}", f"value{at * 104729}") for at in range(500))) > 100


def test_a_sealed_word_has_one_spelling_and_no_colon() -> None:
    """docker's credential stores and the aws CLI split at a colon."""
    word = seal_document(sealer(), {"a": 1})
    assert set(word) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert open_document(sealer(), word) == {"a": 1}
    for other in (word + "=", word + "\n", " " + word):
        with pytest.raises(ValueError, match="not a sealed word"):
            open_document(sealer(), other)


def test_a_document_that_inflates_without_end_does_not_open() -> None:
    bomb = base64.urlsafe_b64encode(sealer().seal(zlib.compress(b" " * 10_000_000 + b"{}"))).rstrip(b"=").decode()
    with pytest.raises(ValueError, match="not a sealed word"):
        open_document(sealer(), bomb)
