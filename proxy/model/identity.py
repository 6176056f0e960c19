"""Who asks, and what stands written about it: principals, sessions, access keys, and the policies they are held to.

Facts as they lie in rows and in sealed tokens; texts of policies are JSON as somebody wrote them. What follows from
them is `auth.policy`'s to say. Sources: IAM User Guide, "IAM identifiers", "Temporary security credentials".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Tags = tuple[tuple[str, str], ...]
"""(key, value) pairs in the order they were given."""


class PrincipalKind(StrEnum):
    ROOT = "root"
    USER = "user"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class AttachedPolicy:
    """A document that counts for a principal. `arn` names a managed one and is empty for an inline one; `holder` is
    the ARN of the user, group or role that it hangs on, empty where it hangs on a session or is a boundary."""

    text: str
    name: str = ""
    arn: str = ""
    holder: str = ""


@dataclass(frozen=True, slots=True)
class BoundPolicy:
    """A policy that names principals (of a repository, a registry, a role's trust): its text as it was given, and the
    unique id that each ARN in it stood for when it was saved, of a user, a role, or for a role's session that role's.

    A principal matches by that id, not by its ARN: one deleted and made anew is somebody else. An empty id stands for
    one that does not exist any more."""

    text: str
    principals: Tags = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, a role or an account's root, with all that its own account says of it at this moment.

    `principal_id` is unique for ever (AIDA…, AROA…; the account's number for its root); `arn` holds the path and may be
    made anew for somebody else. `policies` are its own and its groups', managed and inline. `revoked` says which of its
    temporary credentials do not count any more: (session name, or empty for all of them, and the epoch second up to
    which they were issued)."""

    principal_id: str
    account: str
    arn: str
    name: str
    kind: PrincipalKind = PrincipalKind.USER
    tags: Tags = ()
    policies: tuple[AttachedPolicy, ...] = ()
    boundary: AttachedPolicy | None = None
    revoked: tuple[tuple[str, float], ...] = ()


class SessionKind(StrEnum):
    ROLE = "assumed-role"  # AssumeRole, AssumeRoleWithWebIdentity: principal is the role
    USER = "session-token"  # GetSessionToken: principal is the user or root itself


@dataclass(frozen=True, slots=True)
class Session:
    """What temporary credentials carry with them, times in epoch seconds.

    `policy` and `policy_arns` narrow the session, neither: not narrowed. `transitive` are the tag keys that pass on
    when the session takes a further role. `chained`: it was made with temporary credentials. `claims` are condition
    keys of a web identity that stay in force in the session, as `aws:federatedprovider`. `mfa` is
    aws:MultiFactorAuthPresent."""

    kind: SessionKind
    name: str
    issued: float
    expires: float
    policy: str = ""
    policy_arns: tuple[str, ...] = ()
    tags: Tags = ()
    transitive: tuple[str, ...] = ()
    source_identity: str = ""
    chained: bool = False
    claims: Tags = ()
    mfa: bool = False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Caller:
    """Who makes a request: a principal of this moment, directly or in a session.

    `session_policies` are the documents of `session.policy` and `session.policy_arns`, looked up at this moment; None
    where nothing narrows the session. `password_issued` is when docker's password was made, None for a signed request;
    `key_expires` when the long-lived key behind it ends by its age. Compared by identity: one that is kept is the same
    as long as nothing changed. `undated`, of a caller with `password_issued`, is the same without it: what is cached of
    a caller is cached under that, as each of a fleet comes with a password of another second."""

    principal: Principal
    session: Session | None = None
    session_policies: tuple[AttachedPolicy, ...] | None = None
    access_key_id: str = ""
    password_issued: float | None = None
    key_expires: float | None = None
    undated: Caller | None = field(default=None, repr=False)

    @property
    def account(self) -> str:
        return self.principal.account

    @property
    def arn(self) -> str:
        """As GetCallerIdentity and refusals name it: the session's ARN for a role's session."""
        if self.session is not None and self.session.kind is SessionKind.ROLE:
            return f"arn:aws:sts::{self.account}:assumed-role/{self.principal.name}/{self.session.name}"
        return self.principal.arn

    @property
    def token_issued(self) -> float | None:
        """aws:TokenIssueTime, in epoch seconds: when the session's credentials were issued, also where docker's
        password was made with them later; of a long-lived key's password, when that was made."""
        return self.session.issued if self.session is not None else self.password_issued

    @property
    def user_id(self) -> str:
        """aws:userid: AIDA…, AROA…:session name, or the account's number for root."""
        if self.session is not None and self.session.kind is SessionKind.ROLE:
            return f"{self.principal.principal_id}:{self.session.name}"
        return self.principal.principal_id


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A long-lived key that is active. The secret is sealed under the master key; SigV4 needs it back. It ends by its
    age at `expires`, in epoch seconds; None: it does not."""

    access_key_id: str
    sealed_secret: bytes
    principal: Principal
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class CredentialReportEntry:
    """A long-lived key as a report lists it, times in epoch seconds. `is_open`: its account is not closed. `policies`
    are the ARNs of managed policies and the names of inline ones, its user's and the user's groups'."""

    access_key_id: str
    principal_arn: str
    is_active: bool
    is_open: bool
    created: float
    expires: float | None
    last_used: float | None
    last_service: str
    last_region: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revocation:
    """What was revoked: keys that were active and are not any more, and all temporary credentials of the principal, or
    of its session of that name, that were issued up to `issued_until` (epoch seconds)."""

    principal_arn: str
    access_key_ids: tuple[str, ...]
    issued_until: float


@dataclass(frozen=True, slots=True)
class Role:
    """A role as STS needs it: its trust policy says who may take it. `max_session_seconds` is 3600 to 43200."""

    principal: Principal
    trust: BoundPolicy
    max_session_seconds: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this installation; times in epoch seconds, `closed` None while it is open, `bytes` as quotas count
    them."""

    account: str
    created: float
    closed: float | None = None
    alias: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class OidcProvider:
    """An issuer of web identities that an account trusts. `url` has no scheme: `token.actions.example.com`."""

    arn: str
    account: str
    url: str
    client_ids: tuple[str, ...]
    thumbprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IamResource:
    """An entity of IAM as the condition keys of a decision about it see it."""

    arn: str
    tags: Tags = ()
    boundary_arn: str = ""


@dataclass(frozen=True, slots=True)
class RepositoryAccess:
    """What a repository itself says about access to it; of one that is not there, nothing (`exists` False).

    `encryption` is the ARN of the KMS key that its data keys are made under, empty for the server's own."""

    account: str
    name: str
    exists: bool
    policy: BoundPolicy | None = None
    tags: Tags = ()
    encryption: str = ""


class PolicyScope(StrEnum):
    """REGISTRY_POLICY_SCOPE: which actions a registry policy may speak of."""

    V1 = "V1"
    V2 = "V2"


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """What an account's registry says about access to all of it, and its account settings. `exists` False: there is no
    such account here, or it is closed."""

    account: str
    exists: bool
    policy: BoundPolicy | None = None
    policy_scope: PolicyScope = PolicyScope.V2
    blob_mounting: bool = True
