"""The same credentials give the same Caller object while nothing about them changed, and another one once it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from proxy.auth.callers import Callers
from proxy.model.identity import AccessKey, AttachedPolicy, Principal, PrincipalKind, Session, SessionKind

ACCOUNT = "123456789012"
ALICE = Principal("AIDAALICE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/alice", "alice")
ROLE = Principal("AROAROLE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/ci", "ci", PrincipalKind.ROLE)
SESSION = Session(SessionKind.ROLE, "job-1", 1000.0, 2000.0)
PULLS = f"arn:aws:iam::{ACCOUNT}:policy/pulls"
NOW = 1500.0


def key(access_key_id: str, principal: Principal = ALICE, expires: float | None = None) -> AccessKey:
    return AccessKey(access_key_id, b"sealed", principal, expires)


class Known:
    """Principals, keys and policies in dicts; `asked` counts look-ups of documents."""

    def __init__(self) -> None:
        self.principals = {each.principal_id: each for each in (ALICE, ROLE)}
        self.keys = {"AKIAONE": key("AKIAONE")}
        self.documents = {PULLS: AttachedPolicy("{}", "pulls", PULLS)}
        self.asked = 0

    async def principal(self, principal_id: str) -> Principal | None:
        return self.principals.get(principal_id)

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        return self.keys.get(access_key_id)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        self.asked += 1
        return [self.documents[arn] for arn in arns if account == ACCOUNT and arn in self.documents]


async def test_a_principal_is_found_by_its_id_and_stays_the_same_object() -> None:
    callers = Callers(Known())
    found = await callers.find("AIDAALICE", ACCOUNT)
    assert found is not None
    assert (found.principal, found.session, found.session_policies, found.access_key_id) == (ALICE, None, None, "")
    assert await callers.find("AIDAALICE", ACCOUNT) is found


async def test_a_principal_that_is_gone_or_of_another_account_is_nobody() -> None:
    callers = Callers(Known())
    assert await callers.find("AIDANOBODY", ACCOUNT) is None
    assert await callers.find("AIDAALICE", "210987654321") is None


async def test_a_principal_looked_up_anew_and_unchanged_is_the_same_caller() -> None:
    known = Known()
    callers = Callers(known)
    found = await callers.find("AIDAALICE", ACCOUNT)
    known.principals["AIDAALICE"] = replace(ALICE)
    assert await callers.find("AIDAALICE", ACCOUNT) is found


async def test_a_principal_that_changed_is_another_caller() -> None:
    known = Known()
    callers = Callers(known)
    found = await callers.find("AIDAALICE", ACCOUNT)
    known.principals["AIDAALICE"] = changed = replace(ALICE, policies=(AttachedPolicy("{}"),))
    other = await callers.find("AIDAALICE", ACCOUNT)
    assert other is not None
    assert other is not found
    assert other.principal is changed
    assert await callers.find("AIDAALICE", ACCOUNT) is other


async def test_a_key_has_a_caller_of_its_own() -> None:
    callers = Callers(Known())
    one = callers.of_key(key("AKIAONE"))
    assert one is not None
    assert one.access_key_id == "AKIAONE"
    assert callers.of_key(key("AKIAONE")) is one
    assert callers.of_key(key("AKIATWO")) is not one


async def test_a_session_that_nothing_narrows_has_no_policies_of_its_own() -> None:
    known = Known()
    found = await Callers(known).find("AROAROLE", ACCOUNT, session=SESSION, access_key_id="ASIAX")
    assert found is not None
    assert (found.session, found.session_policies, found.access_key_id) == (SESSION, None, "ASIAX")
    assert known.asked == 0


async def test_a_session_is_narrowed_by_its_policy_and_those_it_names_as_they_are_now() -> None:
    known = Known()
    callers = Callers(known)
    session = replace(SESSION, policy='{"Statement":[]}', policy_arns=(PULLS,))
    found = await callers.find("AROAROLE", ACCOUNT, session=session)
    assert found is not None
    assert found.session_policies == (AttachedPolicy('{"Statement":[]}'), known.documents[PULLS])
    assert await callers.find("AROAROLE", ACCOUNT, session=replace(session)) is found
    known.documents[PULLS] = AttachedPolicy('{"v":2}', "pulls", PULLS)
    later = await callers.find("AROAROLE", ACCOUNT, session=session)
    assert later is not None
    assert later is not found
    assert later.session_policies is not None
    assert later.session_policies[1].text == '{"v":2}'


async def test_a_session_whose_policies_are_all_gone_is_still_narrowed_to_nothing() -> None:
    known = Known()
    known.documents.clear()
    found = await Callers(known).find("AROAROLE", ACCOUNT, session=replace(SESSION, policy_arns=(PULLS,)))
    assert found is not None
    assert found.session_policies == ()


async def test_sessions_of_one_role_are_different_callers() -> None:
    callers = Callers(Known())
    one = await callers.find("AROAROLE", ACCOUNT, session=SESSION)
    other = await callers.find("AROAROLE", ACCOUNT, session=replace(SESSION, name="job-2"))
    assert one is not other


async def test_no_more_callers_are_kept_than_the_bound() -> None:
    callers = Callers(Known(), keep=2)
    first, second = (callers.of_key(key(name)) for name in ("AKIA1", "AKIA2"))
    assert callers.of_key(key("AKIA1")) is first
    callers.of_key(key("AKIA3"))
    assert callers.of_key(key("AKIA1")) is first
    assert callers.of_key(key("AKIA2")) is not second


async def test_a_caller_by_key_is_nobody_once_that_key_is_gone_or_somebody_elses() -> None:
    known = Known()
    callers = Callers(known)
    found = await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0)
    assert found is not None
    assert (found.principal, found.access_key_id, found.password_issued) == (ALICE, "AKIAONE", 1000.0)
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0) is found
    known.keys["AKIAONE"] = key("AKIAONE", ROLE)
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0) is None
    known.keys.clear()
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0) is None


async def test_a_key_ends_at_its_age_to_the_second_for_signatures_and_passwords() -> None:
    known, now = Known(), NOW
    known.keys["AKIAONE"] = old = key("AKIAONE", expires=NOW + 10)
    callers = Callers(known, lambda: now)
    found = await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0)
    assert found is not None
    assert found.key_expires == NOW + 10
    assert callers.of_key(old) is not None
    now = NOW + 10
    assert callers.of_key(old) is None
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0) is None


async def test_a_key_whose_end_was_moved_is_another_caller() -> None:
    callers = Callers(Known(), lambda: NOW)
    one = callers.of_key(key("AKIAONE", expires=NOW + 10))
    other = callers.of_key(key("AKIAONE", expires=NOW + 20))
    assert other is not None
    assert (other is not one, other.key_expires) == (True, NOW + 20)


async def test_passwords_of_one_key_are_different_callers_with_a_token_issue_time_each() -> None:
    callers = Callers(Known())
    one, other = [
        await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=issued) for issued in (1000.0, 1001.0)
    ]
    assert one is not None
    assert other is not None
    assert (one.token_issued, other.token_issued) == (1000.0, 1001.0)
    assert one.undated is not None
    assert one.undated is other.undated is callers.of_key(key("AKIAONE"))


async def test_a_password_has_another_undated_caller_once_its_principal_is_another() -> None:
    known = Known()
    callers = Callers(known)
    before = await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0)
    known.keys["AKIAONE"] = key("AKIAONE", replace(ALICE, tags=(("team", "red"),)))
    after = await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0)
    assert before is not None
    assert after is not None
    assert before.undated is not after.undated
    assert after.undated is not None
    assert after.undated.principal.tags == (("team", "red"),)


async def test_a_password_of_a_session_was_issued_when_the_session_was() -> None:
    found = await Callers(Known()).find("AROAROLE", ACCOUNT, session=SESSION, access_key_id="ASIAX", issued=1900.0)
    assert found is not None
    assert found.token_issued == SESSION.issued


async def test_what_was_issued_before_a_revocation_is_nobodys() -> None:
    """Of a session it is the session's own time that counts, whenever a password was made with it."""
    known = Known()
    callers = Callers(known)
    known.principals = {each.principal_id: replace(each, revoked=(("", 1000.0),)) for each in (ALICE, ROLE)}
    known.keys["AKIAONE"] = key("AKIAONE", known.principals["AIDAALICE"])
    assert await callers.find("AIDAALICE", ACCOUNT, issued=1000.0) is None
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1000.0) is None
    assert await callers.find("AROAROLE", ACCOUNT, session=SESSION, issued=1900.0) is None
    assert await callers.find("AIDAALICE", ACCOUNT, access_key_id="AKIAONE", issued=1001.0) is not None
    assert await callers.find("AROAROLE", ACCOUNT, session=replace(SESSION, issued=1001.0)) is not None
    assert callers.of_key(known.keys["AKIAONE"]) is not None


async def test_a_revoked_session_leaves_the_roles_others_alone() -> None:
    known = Known()
    known.principals["AROAROLE"] = replace(ROLE, revoked=(("job-1", 1000.0),))
    callers = Callers(known)
    assert await callers.find("AROAROLE", ACCOUNT, session=SESSION) is None
    assert await callers.find("AROAROLE", ACCOUNT, session=replace(SESSION, name="job-2")) is not None
