"""Makes all processes agree on the key that seals small values: tokens, upload states, stored secrets.

A record in the metadata service names the active key and has a check value of it. Each process compares its keys at its
start (`begin`): one that does not have that key, or another one of the same name, refuses to serve. Each checks again
every LOOK_SECONDS (`watch`); one that lacks the active key for AMISS_SECONDS is not ready, with the reason.

With a key file the keys are derived from its master keys, and the record names one of them. Under KMS they are derived
from a registry secret, a data key of its own that KMS wraps in the record, so that nodes need no key file. A process
uses all keys that it can get, of the file and of KMS; it seals under the one that the record names, and opens what any
of them sealed. Made by `app.keys`, used by `app.bootstrap` and `app.context`. Must not know what is sealed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy import observe
from proxy.auth.envelope import SmallSealer
from proxy.blob.keys import KMS_PROVIDER, Provider
from proxy.blob.master_file import LOOK_SECONDS, KeyFileError, MasterKey, MasterKeys
from proxy.model.errors import Code, Failure
from proxy.model.records import EncryptedDataKey, KeyRecord

AMISS_SECONDS = 10.0  # without the active key: time for a file to reach this node
RECORDS_SEEN = 100  # that the metadata service lists: beyond, an old key looks like a new one
SECRETS_KEPT = 8  # the newest registry secrets, which KMS unwraps; a token lives 12 h, an upload a day


class KeyRecords(Protocol):
    """The two calls of `metadata.contract.Metadata` that are needed here."""

    async def key_records(self) -> Sequence[KeyRecord]: ...

    async def record_key(self, record: KeyRecord, *, replaces: str | None) -> Sequence[KeyRecord]: ...


class KeyConsensus:
    """One process's keys, compared with the records. `node` is this node's name in messages."""

    def __init__(
        self,
        records: KeyRecords,
        *,
        masters: MasterKeys | None,
        kms: Provider | None,
        prefers_kms: bool,
        sealed_for: str,
        node: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefers_kms`: KMS should be active; `sealed_for` is the context that new registry secrets are bound to."""
        if (kms if prefers_kms else masters) is None:
            raise ValueError("the keys that are to be in force are not here")
        self._records = records
        self._masters = masters
        self._kms = kms
        self._prefers_kms = prefers_kms
        self._sealed_for = sealed_for
        self._node = node
        self._clock = clock
        self._secrets: dict[str, MasterKey] = {}  # registry secrets by name, as KMS unwrapped them
        self._keys: tuple[MasterKey, ...] = ()
        # The records and the file's keys from which `_keys` was made.
        self._taken: tuple[Sequence[KeyRecord], Sequence[MasterKey]] | None = None
        self._derived: dict[str, tuple[tuple[MasterKey, ...], Sequence[tuple[str, bytes]]]] = {}
        self._shut: set[str] = set()  # older registry secrets that KMS refuses to unwrap: tried once
        self._amiss: tuple[float, Failure] | None = None

    def sealer(self, purpose: str) -> SmallSealer:
        """The sealer of small values for one purpose, with keys derived for it only; it follows the active key."""
        return SmallSealer(lambda: self._derive(purpose), purpose)

    async def begin(self, *, moving: bool = False) -> None:
        """Agree on the recorded key, or record the first one. `Failure(KMS)` if this process must not serve.

        `moving` is for processes that wrap no data keys, or are about to activate their own key.
        """
        found = await self._records.key_records()
        if self._prefers_kms and not any(record.wrapped is not None for record in found):
            fresh = await self._new_secret(active=not found)
            found = await self._records.record_key(fresh, replaces=None)
        if not any(record.active for record in found):
            for key in self._masters.all if self._masters is not None else ():
                await self._records.record_key(_record(key), replaces=None)  # so that `waiting` finds new ones
            found = await self._records.record_key(self._first(found), replaces=None)
        await self._take(found)
        if not moving:
            self._refuse_unknown(found)

    async def look(self) -> None:
        """Read changes of the file and the records. A missing key becomes the reason of `check`."""
        if self._masters is not None:
            try:
                await asyncio.to_thread(self._masters.reload)
            except KeyFileError as error:
                observe.log.error("the master key file cannot be read again; its keys stay in memory", error=str(error))
        try:
            await self._take(await self._records.key_records())
        except Failure as failure:
            if failure.code is not Code.KMS or "unavailable" in failure.fields:
                return  # /readyz reports that service itself, and the agreement stays
            if self._amiss is None:
                observe.log.error("this node has not the key in force", reason=failure.message, hint=failure.hint)
                self._amiss = self._clock(), failure
        else:
            self._amiss = None

    async def watch(self) -> None:
        """Runs `look` every LOOK_SECONDS until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:  # after any failure, look again later
                observe.log.exception("a look at the keys in force failed")

    async def check(self) -> None:
        """For /readyz: raises once this process has been without the active key for AMISS_SECONDS."""
        if self._amiss is not None and self._clock() - self._amiss[0] >= AMISS_SECONDS:
            raise self._amiss[1].with_traceback(None)

    async def waiting(self) -> str | None:
        """The name of a key of the file that was never active: the next rotation's, or a new file's first."""
        known = {record.name for record in await self._records.key_records()}
        new = [key.name for key in self._file_keys().all if key.name not in known]
        if not new or len(known) >= RECORDS_SEEN:
            return None
        return new[0] if new[0] == self._file_keys().active.name else new[-1]

    async def prepare(self, *, fresh: bool) -> KeyRecord:
        """The record that `move` will activate, visible to all processes already; with `fresh`, of a new secret.

        The caller adds a new key of a file to the file.
        """
        if not self._prefers_kms:
            return _record(self._file_keys().active)
        found = await self._records.key_records()
        there = next((record for record in found if record.wrapped is not None), None)
        if there is not None and there.wrapped is not None and self._kms is not None:
            unused = not fresh or not there.active
            if unused and await self._kms.is_current(there.wrapped):
                return there
        made = await self._new_secret(active=False)
        await self._records.record_key(made, replaces=None)
        return made

    async def move(self, to: KeyRecord) -> None:
        """Activate the key for all processes, and for this one at once."""
        found = await self._records.key_records()
        in_force = next((record.name for record in found if record.active), None)
        await self._take(await self._records.record_key(_activated(to), replaces=in_force))

    def _first(self, found: Sequence[KeyRecord]) -> KeyRecord:
        """The record that this process activates if there is none."""
        if self._prefers_kms:
            return _activated(next(record for record in found if record.wrapped is not None))
        return _activated(_record(self._file_keys().active))

    async def _new_secret(self, *, active: bool) -> KeyRecord:
        if self._kms is None:
            raise ValueError("a registry secret is kept by KMS")
        made = await self._kms.generate(self._sealed_for)
        key = MasterKey(KMS_PROVIDER, secrets.token_hex(8), made.plaintext)
        self._secrets[key.name] = key
        return KeyRecord(key.name, key.namespace, key.check_value(), made.encrypted, self._sealed_for, active)

    async def _take(self, found: Sequence[KeyRecord]) -> None:
        of_file = self._masters.all if self._masters is not None else ()
        if self._taken == (found, of_file):
            return
        self._taken = None
        in_force = next((record for record in found if record.active), None)
        if in_force is None:
            raise Failure(Code.KMS, "no key is in force", hint="the rows are not whole: restore them from a backup")
        keys, whole = [await self._own(in_force)], True
        for record in [record for record in found if record.wrapped is not None][:SECRETS_KEPT]:
            if record.name not in self._shut:
                keys += (older := await self._older(record))
                whole = whole and (bool(older) or record.name in self._shut)
        by_name: dict[str, MasterKey] = {}
        for key in (*keys, *of_file):
            by_name.setdefault(key.name, key)
        if self._masters is not None:
            self._masters.agree(in_force.name if in_force.wrapped is None else None)
        taken = tuple(by_name.values())
        if taken != self._keys:
            self._keys = taken
        self._taken = (found, of_file) if whole else None

    async def _older(self, record: KeyRecord) -> list[MasterKey]:
        """An inactive registry secret, if it can be unwrapped."""
        try:
            return [await self._own(record)]
        except Failure as failure:
            if "unavailable" not in failure.fields:
                self._shut.add(record.name)
                observe.log.warning(
                    "a registry secret cannot be opened here", reason=failure.message, hint=failure.hint
                )
            return []

    def _refuse_unknown(self, found: Sequence[KeyRecord]) -> None:
        """Refuse to wrap data keys by a key that other nodes may not have."""
        known = {record.name for record in found if record.wrapped is None}
        by_kms = any(record.active and record.wrapped is not None for record in found)
        if self._prefers_kms or not by_kms or self._masters is None or self._masters.active.name in known:
            return
        raise Failure(
            Code.KMS,
            f"{self._node} wraps by master key {self._masters.active.name}, and the registry is under KMS and does not "
            "know that key",
            hint="when every node has the key file, run `wharfage rewrap` with these settings; then start the nodes",
        )

    async def _own(self, record: KeyRecord) -> MasterKey:
        """This process's key of that record. Failure(KMS) with what it has instead, and the remedy."""
        if record.wrapped is not None:
            key = self._secrets.get(record.name) or await self._unwrapped(record, record.wrapped)
        else:
            key = self._of_file(record)
        if not hmac.compare_digest(key.check_value(), record.check_value):
            raise Failure(
                Code.KMS,
                f"{self._node} has another key {record.name} than the registry's rows are sealed under",
                hint=f"copy {self._file()} from a node that serves; two registries' files must not be mixed",
            )
        return key

    def _of_file(self, record: KeyRecord) -> MasterKey:
        key = self._masters.find(record.namespace, record.name) if self._masters is not None else None
        if key is not None:
            return key
        has = ", ".join(key.name for key in self._masters.all[:8]) if self._masters is not None else "no key file"
        raise Failure(
            Code.KMS,
            f"{self._node} lacks the master key {record.name} that the registry is under (it has {has})",
            hint=f"copy {self._file()} from a node that serves"
            + ("; to do without it, run `wharfage rewrap` where it still is" if self._prefers_kms else ""),
        )

    async def _unwrapped(self, record: KeyRecord, wrapped: EncryptedDataKey) -> MasterKey:
        if self._kms is None:
            raise Failure(
                Code.KMS,
                f"{self._node} has no KMS configured, and the registry's secret {record.name} is kept by KMS",
                hint="give [keys] key_id and region as on the nodes that serve",
            )
        key = MasterKey(KMS_PROVIDER, record.name, await self._kms.unwrap(wrapped, record.sealed_for))
        self._secrets[record.name] = key
        self._shut.discard(record.name)  # it was refused while it was not active
        return key

    def _file_keys(self) -> MasterKeys:
        if self._masters is None:
            raise ValueError("master keys are kept in a file")
        return self._masters

    def _file(self) -> str:
        return str(self._masters.path) if self._masters is not None else "the key file ([keys] file)"

    def _derive(self, purpose: str) -> Sequence[tuple[str, bytes]]:
        """The same object until the keys change, by which sealers notice a change."""
        known = self._derived.get(purpose)
        if known is None or known[0] is not self._keys:
            known = self._keys, [(key.name, key.derive(purpose)) for key in self._keys]
            self._derived[purpose] = known
        return known[1]


def _record(key: MasterKey) -> KeyRecord:
    return KeyRecord(key.name, key.namespace, key.check_value(), None, "", False)


def _activated(record: KeyRecord) -> KeyRecord:
    return dataclasses.replace(record, active=True)
