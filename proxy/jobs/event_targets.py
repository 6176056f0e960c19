"""Checks the targets of events and sends to them: webhooks, files in a folder of the operator's, SQS queues.

Promises: an address is checked when a rule names it and again when it is connected to; a file's path has only an
account and a plain name from a tenant; queues are those that the operator listed; no redirect is followed, and only the
status of a response counts. Made by `app.events`; used by `ecr.eventbridge` (`refusal`) and `event_delivery` (`send`).
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from proxy.model.events import Destination, TargetKind
from proxy.upstream.guarded_connector import AddressRefused, Network, check_literal, guarded_connector

USER_AGENT = "Wharfage-Events"


class NotDelivered(Exception):
    """An attempt failed; the text is for the operator and the account, and has no secret in it."""


class EventTargets:
    """`tls` has the CAs for webhooks. Connections are made when they are first needed, inside a running loop."""

    def __init__(
        self,
        *,
        allowed: tuple[Network, ...],
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        folder: Path | None = None,
        queues: tuple[str, ...] = (),
        sqs: Mapping[str, Any] | None = None,
    ) -> None:
        """`sqs` has the arguments of aiobotocore's `create_client` beside the service and the region."""
        self._allowed = allowed
        self._tls = tls
        self._timeout = timeout
        self._folder = folder
        self._queues = queues
        self._sqs = dict(sqs or {})
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._clients: dict[str, Any] = {}  # `LazyClient`s of queues, by region

    def refusal(self, destination: Destination) -> str | None:
        """Why no rule may name this destination; None if its address is allowed (a host name is resolved later)."""
        if destination.kind is TargetKind.FILE:
            return None if self._folder is not None else "is a file, and [events] folder names none"
        if destination.kind is TargetKind.QUEUE:
            fits = any(fnmatch.fnmatchcase(destination.address, pattern) for pattern in self._queues)
            return None if fits else "is not in [events] sqs_queues"
        try:
            url = URL(destination.address)
            fine = url.scheme in ("http", "https") and bool(url.host) and url.user is None and url.password is None
        except ValueError:
            fine = False
        text = destination.address
        if not fine or url.fragment or " " in text or not text.isascii() or not text.isprintable():
            return "is no address such as https://HOST/PATH"
        if url.scheme == "http" and not self._allowed:
            return "is not https://, and [events] allowed_networks is empty"
        try:
            check_literal(url, self._allowed)
        except AddressRefused:
            return "leads to an address that is not in [events] allowed_networks"
        return None

    async def send(self, destination: Destination, account: str, body: bytes, about: Mapping[str, str]) -> None:
        """NotDelivered. `about` has the headers of a webhook's request; a queue takes `group` and `id` of it."""
        if (refused := self.refusal(destination)) is not None:
            raise NotDelivered(f"the target {refused}")
        try:
            async with asyncio.timeout(self._timeout):
                if destination.kind is TargetKind.WEBHOOK:
                    await self._post(URL(destination.address), body, about)
                elif destination.kind is TargetKind.FILE and self._folder is not None:
                    await asyncio.to_thread(_append, self._folder / account, destination.address, body)
                else:
                    await self._enqueue(destination.address, body, about)
        except TimeoutError:
            raise NotDelivered(f"no answer in {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}"[:500]) from None

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        for client in self._clients.values():
            await client.close()

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> None:
        session = self._sessions.get(url.scheme)
        if session is None:
            connector = guarded_connector(self._allowed, plain=url.scheme == "http", tls=self._tls)
            session = self._sessions[url.scheme] = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": USER_AGENT}
            )
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            if not 200 <= answer.status < 300:
                raise NotDelivered(f"HTTP {answer.status}")

    async def _enqueue(self, arn: str, body: bytes, about: Mapping[str, str]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        from proxy.storage.s3.retries import LazyClient  # loads aiobotocore, which webhooks and files do without

        _, _, _, region, account, name = arn.split(":")
        try:
            client = await self._clients.setdefault(region, LazyClient(partial(self._make, region))).get()
            url = (await client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account))["QueueUrl"]
            fifo = name.endswith(".fifo")
            more = {"MessageGroupId": about["group"], "MessageDeduplicationId": about["id"]} if fifo else {}
            await client.send_message(QueueUrl=url, MessageBody=body.decode(), **more)
        except (BotoCoreError, ClientError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}"[:500]) from None

    def _make(self, region: str) -> Any:
        """Runs in a thread, because it reads files."""
        from proxy.storage.s3.retries import make_session

        session = make_session("sqs", ("service-2", "endpoint-rule-set-1", "paginators-1"))
        return session.create_client("sqs", region_name=region, **self._sqs)


def tls_context(ca_bundle: str, failed: Callable[[str], Exception]) -> ssl.SSLContext:
    """The TLS context for webhooks; raises the exception that `failed` makes if the file cannot be used."""
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError) as error:
        raise failed(f"[events] ca_bundle {ca_bundle}: cannot be used: {error}") from error


def _append(folder: Path, name: str, body: bytes) -> None:
    """Append one line, durably. A symbolic link as the file is refused, in case others can write to the folder."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(folder / name, flags, 0o640)
    try:
        line = body + b"\n"
        if os.write(descriptor, line) != len(line):
            raise OSError("the line was not written whole")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
