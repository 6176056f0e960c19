"""Read after write on every node: the protocol between services and nodes, its times and its messages.

Many metadata services write one PostgreSQL; many nodes (a node: one machine or container with its workers) cache
reads. A write is answered only when nothing uses what it has invalidated any more (invariant 5). The parties:

    writer    the service that commits                      node     one page (`epochs`) with one writer, many readers
    peer      any service that has a row in `services`      reader   a worker; caches rows with the epoch before them

**Reading.** A reader checks that the lease of its page is valid and takes the epoch, *then* asks any service, and
caches the answer under that epoch. It uses the answer while the lease is valid and the epoch is unchanged. So an answer
is wrong only if a lease was valid, with the epoch not incremented, beyond a commit that the answer's snapshot had not
seen. All below prevents just that.

**Services** (`membership`). A service that serves nodes has a row in `services`, under a registration id that is never
used twice.
1. It listens to the channel first and registers then, under the lock of writes. So each commit either comes before the
   registration, and all that is read under it has seen the commit; or comes after, and the writer sees the row. The
   commit of the registration notifies every service that has not lost the database by then (for grace).
2. With the registration it increments all epochs of its page and of its nodes: it may have missed any change before.
3. It renews (increments `renewals`) each `RENEW_SECONDS`. Its lease lasts `LEASE_SECONDS` from when it *sent* a
   renewal that succeeded. No wall clock is compared: who waits for a lease to end watches the counter stay the same for
   `OUTLAST_SECONDS` of its own monotonic clock, from when it *read* it. OUTLAST is LEASE times `RATE` and more, and so
   the lease has ended, though the rates of the two clocks differ by 20 %.
4. A row is removed before its service is given up, on condition that the counter is unchanged. When a service renews
   and does not confirm for `FENCE_SECONDS`, its row is fenced: it cannot be renewed any more, and writers go on waiting
   for it until OUTLAST is over and it is removed. A writer that does not receive its own news fences no service, but
   begins a new session; FENCE counts from when a stalled commit last held the lock of NOTIFY: no service can confirm
   then. A renewal that finds no row, or a fenced one, means that writes may have been missed: the service registers
   anew, see 2. Nothing else says so. A service that answers though it does not renew is notified that the database is
   reached, and OUTLAST is waited from then on: it may be in grace.

**Writing.** 5. Write transactions of all services are serial (`pg_advisory_xact_lock`, first in each). Inside it, last
before COMMIT, a writer with changes sends a NOTIFY with a number that ascends for it, and reads the registrations. So
the news goes out exactly if, and only after, the write is committed, in the order of commits, even if the writer dies
in that instant or the answer to its COMMIT is lost. NOTIFY's global lock costs nothing where writes are serial already;
writes without changes (upload sessions) send none.
6. After COMMIT it increments epochs on its own page, sends the change to its own nodes, and waits until each
   registration that it read has confirmed the number, or is removed and its lease has ended. The commit of the next
   group does not wait for that.
7. A peer that receives the news increments epochs on its page, sends the change to its nodes, and confirms (NOTIFY to
   the channel of the writer) when its nodes have confirmed or their leases have ended. Confirming n confirms all lower
   numbers of that writer.
8. A writer that lost the connection on which it would receive confirmations sends its last number again when it has a
   new one. Undecided for `CONFIRM_SECONDS`, it answers "unavailable": the write is committed but not acknowledged;
   a repeated request with its id (`service.idempotency`) notifies all anew before it is answered.

**Nodes** (`subscribers` serves them, `subscriber` is their side, over one WebSocket). 9. From attaching on the node
   receives each change; at its first grant it increments all epochs, *then* puts the lease on its page. Changes are
   sent before grants that come after them.
10. The service grants what is left of its own lease, divided by RATE, and the node counts that from when it *sent* the
   request: so a node's lease has ended when its service's has, whatever the rates of their clocks.
11. The service waits for a node's confirmation until the lease that it granted has ended, also when the connection was
   cut, or the node went to another service meanwhile. A lease that lapsed and is granted anew on the same connection
   proves all that it did before, since every change came before it. None is granted while a change is unconfirmed for
   `TARDY_SECONDS`, nor to a node that confirmed late three times in a row (`lag`).
12. A service that starts waits, before it answers its first write, until leases that its predecessor granted have
   ended: their latest end is on its page.

A node that is cut off stops using its cache within LEASE_SECONDS. A service on SQLite is the only writer there is: its
lease never ends.

**Grace** (`outage`). No service reaches the database: no write can be answered, and so what was valid stays valid. A
service that has lost it goes on granting while every other registered service, asked directly, says that it does not
reach it either, that the asker was registered when it last read the table, and that it never tried to give the asker
up. Each such "no" is itself a lease: it is good for LEASE_SECONDS from when the question was sent, and the service that
said it answers no write before OUTLAST has passed. A service that gives another up notifies it, where it can be
reached. What is left: a service that has started since the asker lost the database, reaches it alone, and reaches no
service that the asker knows.
"""

from __future__ import annotations

import json
from typing import Any

from proxy.metadata.db.transaction import Changes

RATE = 1.2  # how much faster one machine's clock may go than another's
RENEW_SECONDS = 0.2
LEASE_SECONDS = 0.8
OUTLAST_SECONDS = 1.0  # LEASE times RATE, and some for arithmetic
FENCE_SECONDS = 2.0
TARDY_SECONDS = 0.3
CONFIRM_SECONDS = 8.0  # FENCE, OUTLAST, and time for a database that restarts meanwhile

_MANY = 4096  # repositories in one message; more is "everything"


def encode(changes: Changes) -> dict[str, Any]:
    """As JSON: {"i": identities, "r": [[account, repository], …]}, or {"e": everything}."""
    if changes.everything or len(changes.repositories) > _MANY:
        return {"e": True}
    found: dict[str, Any] = {}
    if changes.identity:
        found["i"] = True
    if changes.repositories:
        found["r"] = sorted(changes.repositories)
    return found


def decode(data: Any) -> Changes:
    """Everything, for a form that we do not know: it may come from a newer release."""
    if isinstance(data, dict) and data.keys() <= {"i", "r"}:
        try:
            return Changes({(str(account), str(name)) for account, name in data.get("r", [])}, bool(data.get("i")))
        except (TypeError, ValueError):
            pass
    return Changes(everything=True)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
