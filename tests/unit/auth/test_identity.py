"""Basic auth at /v2/: user AWS with a live token of a live principal, and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import pytest

from proxy.auth.callers import Callers
from proxy.auth.envelope import SmallSealer
from proxy.auth.identity import EXPIRED_TEXT, HEADER_MAX, BasicAuthenticator, Unauthenticated
from proxy.auth.tokens import LIFETIME, TokenClaims, Tokens
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, AttachedPolicy, Principal, Session, SessionKind
from support.identities import ADMINISTRATORS

ACCOUNT = "123456789012"
REGION = "us-east-1"
ANNA = Principal("AIDAANNA", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/anna", "anna", policies=ADMINISTRATORS)


class CountingTokens(Tokens):
    """Tokens that count how often one was opened."""

    opened = 0

    def read(self, token: str, now: float) -> TokenClaims:
        self.opened += 1
        return super().read(token, now)


class House:
    """An identity with its clock and its principals within reach."""

    def __init__(self, keep: int = 8) -> None:
        self.now = 1_800_000_000.0
        self.principals: dict[str, Principal] = {"AIDAANNA": ANNA}
        self.keys = {"AKIAANNA": AccessKey("AKIAANNA", b"sealed", ANNA)}
        self.looked_up = 0
        self.tokens = CountingTokens(SmallSealer([("k", bytes(32))], "authorization-token"))
        self.identity = BasicAuthenticator(
            Callers(self, lambda: self.now), self.tokens, lambda: self.now, region=REGION, keep=keep
        )
        self.documents: dict[str, AttachedPolicy] = {}

    async def principal(self, principal_id: str) -> Principal | None:
        self.looked_up += 1
        return self.principals.get(principal_id)

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        self.looked_up += 1
        return self.keys.get(access_key_id)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        return [self.documents[arn] for arn in arns if arn in self.documents]

    def token(
        self, region: str = REGION, account: str = ACCOUNT, session: Session | None = None, key: str = "AKIAANNA"
    ) -> str:
        return self.tokens.issue(ANNA, account, region, self.now, session, "ASIAANNA" if session else key)[0]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_the_token_of_a_live_principal_names_it() -> None:
    house = House()
    caller = await house.identity.authenticate_basic(basic("AWS", house.token()))
    assert (caller.principal, caller.session, caller.session_policies) == (ANNA, None, None)


async def test_one_that_asks_again_is_the_same_object_until_it_changes() -> None:
    house = House()
    header = basic("AWS", house.token())
    first = await house.identity.authenticate_basic(header)
    assert await house.identity.authenticate_basic(header) is first
    house.keys["AKIAANNA"] = AccessKey("AKIAANNA", b"sealed", replace(ANNA, policies=()))
    assert (await house.identity.authenticate_basic(header)).principal.policies == ()


async def test_the_token_of_a_session_is_that_session_with_its_policies_of_the_moment() -> None:
    house = House()
    session = Session(SessionKind.ROLE, "ci", house.now, house.now + 900, policy="{}", policy_arns=("arn:p",))
    header = basic("AWS", house.token(session=session))
    house.documents["arn:p"] = AttachedPolicy("one", arn="arn:p")
    caller = await house.identity.authenticate_basic(header)
    assert caller.session == session
    assert caller.session_policies == (AttachedPolicy("{}"), AttachedPolicy("one", arn="arn:p"))
    house.documents["arn:p"] = AttachedPolicy("two", arn="arn:p")
    caller = await house.identity.authenticate_basic(header)
    assert caller.session_policies == (AttachedPolicy("{}"), AttachedPolicy("two", arn="arn:p"))


async def test_the_scheme_is_read_without_regard_to_case() -> None:
    house = House()
    assert await house.identity.authenticate_basic(basic("AWS", house.token()).replace("Basic", "bAsIc"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic QVdTOg",
        "Basic QVdTOg===",
        "Bearer abc",
        "Basic " + base64.b64encode(b"AWS").decode(),
        "Basic " + base64.b64encode(b"AWS:").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\x00").decode(),
        "Basic QVdTOmFiYw== extra",
        basic("AWS", "wrong"),
        basic("AWS", "wr\u00f6ng:\u20ac"),
        basic("AWS", "x" * (HEADER_MAX * 2)),
        "Basic QVdT\udcff",
    ],
    ids=[
        "none", "empty", "scheme-only", "no-value", "not-base64", "no-padding", "too-much-padding", "bearer",
        "no-colon", "no-password", "not-utf8", "two-values", "wrong", "not-ascii", "too-long", "raw-bytes",
    ],
)  # fmt: skip
async def test_credentials_that_do_not_count_are_unauthenticated(header: str | None) -> None:
    house = House()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(header)
    assert house.looked_up == 0


@pytest.mark.parametrize("user", ["aws", "", "AWS ", "root", "A\u0174S"])
async def test_any_user_but_aws_is_unauthenticated(user: str) -> None:
    house = House()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(basic(user, house.token()))


async def test_a_password_whose_key_is_gone_is_refused_by_the_very_next_request() -> None:
    house = House()
    header = basic("AWS", house.token())
    await house.identity.authenticate_basic(header)
    house.keys.clear()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(header)


async def test_a_password_of_a_session_whose_principal_is_gone_is_refused_by_the_very_next_request() -> None:
    house = House()
    header = basic("AWS", house.token(session=Session(SessionKind.ROLE, "ci", house.now, house.now + 900)))
    await house.identity.authenticate_basic(header)
    house.principals.clear()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(header)


async def test_a_password_without_a_key_as_older_releases_made_it_goes_on_with_its_principal() -> None:
    house = House()
    house.keys.clear()
    header = basic("AWS", house.token(key=""))
    caller = await house.identity.authenticate_basic(header)
    assert (caller.access_key_id, caller.token_issued) == ("", house.now)
    house.principals.clear()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(header)


async def test_a_password_is_good_until_it_or_its_key_ends() -> None:
    house = House()
    header = basic("AWS", house.token())
    caller = await house.identity.authenticate_basic(header)
    assert house.identity.good_until(header, caller) == house.now + LIFETIME
    house.keys["AKIAANNA"] = AccessKey("AKIAANNA", b"sealed", ANNA, house.now + 60)
    caller = await house.identity.authenticate_basic(header)
    assert house.identity.good_until(header, caller) == house.now + 60
    house.now += 60
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(header)


async def test_a_token_of_another_region_is_refused() -> None:
    house = House()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(basic("AWS", house.token(region="eu-west-1")))


async def test_a_token_of_another_account_than_its_principal_is_refused() -> None:
    house = House()
    with pytest.raises(Unauthenticated):
        await house.identity.authenticate_basic(basic("AWS", house.token(account="999999999999")))


@pytest.mark.parametrize("seen_before", [False, True], ids=["cold", "cached"])
async def test_an_expired_token_is_denied_in_the_words_of_ecr(seen_before: bool) -> None:
    house = House()
    header = basic("AWS", house.token())
    if seen_before:
        await house.identity.authenticate_basic(header)
    house.now += LIFETIME
    with pytest.raises(Failure) as caught:
        await house.identity.authenticate_basic(header)
    assert (caught.value.code, caught.value.message) == (Code.ACCESS_DENIED, EXPIRED_TEXT)


async def test_a_token_is_opened_once_and_its_key_looked_up_each_time() -> None:
    house = House()
    header = basic("AWS", house.token())
    for _ in range(3):
        await house.identity.authenticate_basic(header)
    assert (house.tokens.opened, house.looked_up) == (1, 3)


async def test_no_more_tokens_are_kept_than_the_bound() -> None:
    house = House(keep=2)
    headers = [basic("AWS", house.token()) for _ in range(3)]
    for header in (*headers, headers[0]):
        await house.identity.authenticate_basic(header)
    assert house.tokens.opened == 4


async def test_a_failing_look_up_passes_through() -> None:
    class Down(House):
        async def access_key(self, access_key_id: str) -> AccessKey | None:
            raise Failure(Code.METADATA_UNAVAILABLE, "no answer")

    house = Down()
    with pytest.raises(Failure, match="MetadataUnavailable"):
        await house.identity.authenticate_basic(basic("AWS", house.token()))
