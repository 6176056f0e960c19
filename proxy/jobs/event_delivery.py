"""The job that delivers the events of one target and one repository in order, each until it succeeds or is given up.

Promises: an event is removed from the rows only after its target accepted it (at least once); a later one waits for an
earlier one of its repository; a redelivery has the same body and id; one that is given up, by its target's RetryPolicy
or EventBridge's defaults, becomes a dead job with the reason, and the next one follows. Called by `app.events`;
`ecr.eventbridge` calls `check_target`. Must not know how events are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.auth.event_secrets import new_secret, open_event_secret, seal_event_secret, signature_headers
from proxy.jobs.event_targets import EventTargets, NotDelivered
from proxy.jobs.queue import GivenUp, JobKind, Postponed
from proxy.metadata.event_contract import EventPort
from proxy.model.events import AGE_SECONDS, ATTEMPTS, Destination, EventDelivery, TargetKind, cloud_event
from proxy.model.events import parse_destination as parse
from proxy.model.jobs import Job

KIND = "event"
AT_ONCE = 32  # jobs of a worker; each holds one connection
TURN = 100  # events after which a job lets others run
LONGEST_PAUSE = 300.0
CLOUD_EVENTS = "application/cloudevents+json"


class EventDelivering:
    """`sealer` is for `auth.event_secrets.PURPOSE`; `clock` returns epoch seconds; `wraps`: CloudEvents for all."""

    def __init__(
        self,
        rows: EventPort,
        targets: EventTargets,
        sealer: SmallSealer,
        *,
        region: str,
        clock: Callable[[], float],
        wraps: bool = False,
    ) -> None:
        self._rows = rows
        self._targets = targets
        self._sealer = sealer
        self._region = region
        self._clock = clock
        self._wraps = wraps

    def kind(self) -> JobKind:
        """The job is retried for ever: events are given up, not the job."""
        return JobKind(KIND, self.run, at_once=AT_ONCE, share_limit=2, attempts=None, longest_pause=LONGEST_PAUSE)

    async def run(self, job: Job) -> None:
        subject: Mapping[str, Any] = json.loads(job.subject)
        target, repository = subject["target"], subject["repository"]
        if "body" in subject:  # an operator retries an event that was given up
            return await self._run_dead(job, target, subject["body"], repository)
        for _ in range(TURN):
            delivery = await self._rows.next_event(job.account, target, repository)
            if delivery is None:
                if not await self._rows.drop_events(target, repository):
                    return
                continue
            error, outcome = None, "delivered"
            try:
                await self._deliver(job.account, repository, delivery)
            except NotDelivered as failure:
                error = str(failure)
                outcome = "dead" if self._is_over(delivery) else "failed"
            if not await self._rows.end_event(
                job.job_id, job.fence, delivery.delivery_id, error=error, dead=outcome == "dead"
            ):
                return  # another process has the lease, and goes on
            observe.metrics.events.labels(outcome).inc()
            if outcome == "dead":
                observe.log.warning("an event is given up", account=job.account, repository=repository, error=error)
            if error is not None and outcome != "dead":
                raise NotDelivered(error)
        raise Postponed(0.0)

    async def _run_dead(self, job: Job, target: int, body: str, repository: str) -> None:
        delivery = await self._rows.dead_event(job.account, target, body)
        if delivery is None:
            return
        try:
            await self._deliver(job.account, repository, delivery)
        except NotDelivered as failure:
            raise GivenUp(str(failure)) from None
        observe.metrics.events.labels("delivered").inc()

    def _is_over(self, delivery: EventDelivery) -> bool:
        policy = json.loads(delivery.definition).get("RetryPolicy") or {}
        most, age = policy.get("MaximumRetryAttempts"), policy.get("MaximumEventAgeInSeconds")
        tried = delivery.attempts >= (ATTEMPTS if most is None else most)
        return tried or self._clock() - delivery.created_at >= (age or AGE_SECONDS)

    async def _deliver(self, account: str, repository: str, delivery: EventDelivery) -> None:
        definition = json.loads(delivery.definition)
        try:
            destination = parse(definition["Arn"], account, self._region)
        except ValueError as error:  # the region was renamed since
            raise NotDelivered(f"the target {error}") from None
        event = json.loads(delivery.body)
        wraps = self._wraps or content_type(definition) == CLOUD_EVENTS
        wrapped = wraps and destination.kind is not TargetKind.FILE
        body = json.dumps(cloud_event(event), separators=(",", ":")).encode() if wrapped else delivery.body.encode()
        about = {"group": (definition.get("SqsParameters") or {}).get("MessageGroupId") or _group(repository)}
        about["id"] = event["id"]
        if destination.kind is TargetKind.WEBHOOK:
            about = {"Content-Type": CLOUD_EVENTS if wrapped else "application/json"}
            about |= signature_headers(await self._keys(account, delivery), int(self._clock()), body)
        await self._targets.send(destination, account, body, about)

    async def _keys(self, account: str, delivery: EventDelivery) -> list[str]:
        """The signing secrets; the first is created if the account has none yet."""
        sealed = delivery.secrets
        if not sealed:
            fresh = seal_event_secret(self._sealer, account, new_secret())
            made = await self._rows.put_event_secret(account, fresh, rotates=False, keep_seconds=0.0)
            sealed = (made.sealed,)
        try:
            return [open_event_secret(self._sealer, account, each) for each in sealed]
        except ValueError as error:
            raise NotDelivered(f"the account's secret cannot be opened: {error}") from None


def content_type(definition: Mapping[str, Any]) -> str:
    """The Content-Type of a target's HttpParameters, in lower case; empty if there is none."""
    headers: Mapping[str, str] = (definition.get("HttpParameters") or {}).get("HeaderParameters") or {}
    return next((value.lower() for name, value in headers.items() if name.lower() == "content-type"), "")


def check_target(targets: EventTargets, definition: Mapping[str, Any], account: str, region: str) -> Destination:
    """The target's destination. ValueError with the reason if PutTargets must refuse it."""
    unknown = definition.keys() - {"Id", "Arn", "RoleArn", "RetryPolicy", "HttpParameters", "SqsParameters"}
    if unknown:
        raise ValueError(f"{min(unknown)} is not supported")
    http = definition.get("HttpParameters") or {}
    headers = http.get("HeaderParameters") or {}
    if http.keys() - {"HeaderParameters"} or any(name.lower() != "content-type" for name in headers):
        raise ValueError("of HttpParameters only the header Content-Type is supported")
    if headers and content_type(definition) not in ("application/json", CLOUD_EVENTS):
        raise ValueError(f"Content-Type is application/json or {CLOUD_EVENTS}")
    destination = parse(definition["Arn"], account, region)
    if (refused := targets.refusal(destination)) is not None:
        raise ValueError(refused)
    return destination


def _group(repository: str) -> str:
    """A FIFO queue's message group: order is kept within a repository. At most 128 characters."""
    return repository[-128:]
