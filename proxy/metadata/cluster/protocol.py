"""Read after write on every node: the protocol between services and nodes, its times, and its words.

Many metadata services write one PostgreSQL; many nodes (a node: one machine or container with its workers) keep
answers. A write is answered only when nobody can use what it has outdated any more (invariant 5). The parties:

    writer    the service that commits                      node     one page (`epochs`) with one writer, many readers
    peer      any service that has a row in `services`      reader   a worker; keeps rows with the epoch before them

**Reading.** A reader checks that its page speaks and takes the epoch, *then* asks any service, and keeps the answer
under that epoch. It uses the answer while the page speaks and the epoch stands. So an answer is wrong only if the page
went on speaking, uncounted, beyond a commit that the answer's snapshot had not seen. All below prevents just that.

**Peers** (`peers`). A service that serves nodes has a row in `services`, under a registration id that is never used
twice.
1. It listens to the channel first and registers then, under the writers' lock. So each commit either comes before the
   registration, and all that is read under it has seen the commit; or comes after, and the writer sees the row. It
   says so with its registration's commit, so that all know of it who have not lost the database by then (for grace).
2. With the registration everything kept by its page and nodes is outdated: it may have missed anything before.
3. It renews (counts `renewals` up) each `RENEW_SECONDS`. It may speak for `LEASE_SECONDS` from when it *sent* a
   renewal that succeeded. No wall clock is compared: who waits for a lease to end watches the counter stand still for
   `OUTLAST_SECONDS` of its own monotonic clock, from when it *saw* it. OUTLAST is LEASE times `RATE` and more, and so
   the lease has ended, though the two clocks' rates differ by 20 %.
4. A row is removed before its service is given up, on condition that the counter still stands. When a service renews
   and does not confirm for `FENCE_SECONDS`, its row is barred: it cannot be renewed any more, and writers go on waiting
   for it until OUTLAST is over and it is removed. A writer that does not hear its own news bars nobody, but begins a
   fresh session; FENCE counts from when a commit that stalls last held the lock of NOTIFY: nobody can confirm then.
   A renewal that finds no row, or a barred one, says that writes may have been missed: the service
   registers anew, see 2. Nothing else tells it. Who answers though it does not renew is told that the database is
   reached, and OUTLAST is waited from then on: it may be in grace.

**Writing.** 5. Write transactions of all services are serial (`pg_advisory_xact_lock`, first in each). Inside it, last
before COMMIT, a writer with changes sends a NOTIFY with a number that ascends for it, and reads the registrations. So
the news goes out exactly if, and only after, the write is committed, in the order of commits, even if the writer dies
in that instant or its COMMIT's answer is lost. NOTIFY's global lock costs nothing where writes are serial already;
writes without changes (upload sessions) send none.
6. After COMMIT it counts its own page up, tells its own nodes, and waits until each registration that it read has
   confirmed the number, or is removed and its lease is outlasted. The next group's commit does not wait for that.
7. A peer that hears the news counts its page up, tells its nodes, and confirms (NOTIFY to the writer's own channel)
   when its nodes have confirmed or their leases have ended. Confirming n confirms all of that writer's numbers below.
8. A writer that lost the line on which it would hear confirmations sends its last number again when it has one.
   Undecided for `CONFIRM_SECONDS`, it answers "unavailable": the write is there but not acknowledged; asked again with
   its request id (`answers`), it is told to all anew before it is answered.

**Nodes** (`nodes` serves, `watch` asks, over one WebSocket). 9. On attaching the node is told of each later change; at
its first grant it counts everything up, *then* lets its page speak. Changes are sent before grants that come after
them.
10. The service grants what is left of its own lease, divided by RATE, and the node counts that from when it *sent* the
   request: so a node's lease has ended when its service's has, whatever their clocks' rates.
11. The service waits for a node's confirmation until the lease that it granted has ended, also when the line was cut,
   or the node went to another service meanwhile. A lease that lapsed and comes again on the same line proves all that
   it did before, since every change came before it. None is granted while a change stands unconfirmed for
   `TARDY_SECONDS`, nor to a node that confirmed late three times in a row (`lag`).
12. A service that starts waits, before it answers its first write, until leases that its predecessor granted have
   ended: their latest end stands in its page.

A node that is cut off stops within LEASE_SECONDS. A service on SQLite is the only writer there is: its lease never
ends.

**Grace** (`grace`). No service reaches the database: no write can be answered, and so what was valid stays valid. A
service that has lost it goes on granting while every other registered service says, asked directly, that it does not
reach it either, that the asker was in the roster which it read last, and that it never tried to give the asker up. Each
such "no" is itself a lease: it is good for LEASE_SECONDS from when the question was sent, and who said it answers no
write before it has outlasted it. A service that gives another up tells it so, where it can be reached. What is left:
one that has started since the asker lost the database, reaches it alone, and reaches no service that the asker knows.
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
