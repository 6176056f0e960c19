"""Whether an image may be replicated into a registry: by its policy, and from a peer by the sender's rights as well.

The destination's registry policy must allow `ecr:ReplicateImage` to the root of the source's account, and
`ecr:CreateRepository` where the repository is not there; in the source's own account nothing but a deny has a say. A
sender of another installation needs both actions in its own policies as well. Which account an image is of is its word,
so it is taken from `[replication] senders` only; any other user replicates from its own account's number into its own
account. Called by `jobs.replication_here` and `oci.replicas`. Must not know headers.
Source: ECR User Guide, "Private image replication", "Registry permissions".
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.auth.access import Access
from proxy.auth.policy.context import RequestInfo, request_context
from proxy.auth.policy.decision import Decision, Question, settle
from proxy.auth.policy.evaluation import caller_layers
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, Principal, PrincipalKind
from proxy.model.lru import Lru
from proxy.model.names import repository_arn
from proxy.model.records import CreateOnPush, create_on_push

REPLICATE = "ecr:ReplicateImage"
CREATE = "ecr:CreateRepository"
ROOTS_MAX = 1024


def root_of(account: str) -> Caller:
    """An account's root, here or at another installation: as which replication asks."""
    return Caller(Principal(account, account, f"arn:aws:iam::{account}:root", "", PrincipalKind.ROOT))


class ReplicationAccess:
    """One worker's answers. `senders`: ARNs of users and roles."""

    def __init__(self, access: Access, *, region: str, senders: Sequence[str] = ()) -> None:
        self._access = access
        self._region = region
        self._senders = frozenset(senders)
        self._roots = Lru[str, Caller](ROOTS_MAX)  # one object each: decisions are cached by it

    async def require(self, source: str, destination: str, repository: str, info: RequestInfo) -> CreateOnPush:
        """How a repository of the account `destination` may be made for what comes from the account `source`.
        AccessDenied."""
        root = self._roots.get(source)
        if root is None:
            root = self._roots[source] = root_of(source)
        return await self._require(root, repository_arn(self._region, destination, repository), info)

    async def require_sender(
        self, sender: Caller, source: str, destination: str, repository: str, info: RequestInfo
    ) -> CreateOnPush:
        """As `require`, where the user or role `sender` says that the image is of the account `source`."""
        arn = repository_arn(self._region, destination, repository)
        if sender.principal.arn not in self._senders:
            if not source == sender.account == destination:
                raise Failure(
                    Code.ACCESS_DENIED,
                    f"User: {sender.arn} may replicate from its own account's number into its own account only",
                    hint="[replication] senders lists who may replicate for other accounts",
                )
            return await self._require(sender, arn, info)
        if not (decision := _by_itself(sender, REPLICATE, arn, info)).allowed:
            raise Failure(Code.ACCESS_DENIED, decision.message)
        create = await self.require(source, destination, repository, info)
        return create if _by_itself(sender, CREATE, arn, info).allowed else CreateOnPush.NO

    async def _require(self, caller: Caller, arn: str, info: RequestInfo) -> CreateOnPush:
        await self._access.require(caller, REPLICATE, arn, info)
        may_create = (await self._access.decide(caller, CREATE, arn, info)).allowed
        return create_on_push(allowed=may_create, by_default=True, replica=True)


def _by_itself(sender: Caller, action: str, arn: str, info: RequestInfo) -> Decision:
    """What the sender's own policies say, whichever account owns the registry."""
    question = Question(action, arn, request_context(sender, info, arn))
    return settle(sender, question, caller_layers(sender), True)
