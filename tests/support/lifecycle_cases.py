"""Cases of lifecycle policies: a policy, images, which of them it marks, and where that is written.

Sources: G = ECR User Guide, "How the lifecycle policy evaluator works" and "Lifecycle policy evaluation rules";
P = "Lifecycle policy properties"; X = "Examples of lifecycle policies"; A = "Archiving an image"; R = "Restoring an
archived image"; r# = an issue of aws/containers-roadmap; ours = docs/lifecycle.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.model.lifecycle.evaluation import Image, ImageStatus

DAY = 86_400.0
NOW = 1000 * DAY
ARCHIVED, ACTIVATING = ImageStatus.ARCHIVED, ImageStatus.ACTIVATING
TO_ARCHIVE = {"type": "transition", "targetStorageClass": "archive"}


def select(count: str, number: int, **more: Any) -> dict[str, Any]:
    """A selection; `pushed`, `pulled` and `archived` in days, `count` in images."""
    kinds = {
        "count": "imageCountMoreThan",
        "pushed": "sinceImagePushed",
        "pulled": "sinceImagePulled",
        "archived": "sinceImageTransitioned",
    }
    selection: dict[str, Any] = {"countType": kinds[count], "countNumber": number, **more}
    if count != "count":
        selection["countUnit"] = "days"
    if count == "archived":
        selection["storageClass"] = "archive"
    lists = selection.keys() & {"tagPrefixList", "tagPatternList"}
    return {"tagStatus": "tagged" if lists else "any", **selection}


def policy(*selections: Mapping[str, Any], action: Mapping[str, Any] | None = None) -> str:
    """Rules of priority 1, 2, ...; what is pulled is archived, else `action` or expired."""
    rules = []
    for priority, each in enumerate(selections, 1):
        kept = dict(each)
        acts = kept.pop("action", None) or action or {"type": "expire"}
        rules.append({"rulePriority": priority, "selection": kept, "action": acts})
    return json.dumps({"rules": rules})


def img(key: int, days: float, *tags: str, **more: Any) -> Image:
    """Pushed so many days ago; `pulled`, `archived` and `restored` are days ago, too."""
    for ours, theirs in (("pulled", "last_pulled_at"), ("archived", "archived_at"), ("restored", "activated_at")):
        if ours in more:
            more[theirs] = NOW - more.pop(ours) * DAY
    return Image(key, f"sha256:{key:064x}", NOW - days * DAY, tags, **more)


PROD, BETA = ["prod"], ["beta"]
# The guide's example A: three images, pushed 10, 9 and 8 days ago, with these tags.
THREE = [img(1, 10, "beta-1", "prod-1"), img(2, 9, "beta-2", "prod-2"), img(3, 8, "beta-3")]
PATTERNED = [img(1, 10, "alpha-1", "beta-1"), img(2, 9, "alpha-2"), img(3, 8, "beta-3"), img(4, 7)]
UNTAGGED = select("pushed", 14, tagStatus="untagged")
OLD, NEW = img(1, 15), img(2, 13)
PAIR = (img(1, 5, parents=(3,)), img(2, 5, parents=(3,)), img(3, 4, "v1"))
CLASSES = [img(1, 400, archived=100, status=ARCHIVED), img(2, 400), img(3, 400, archived=80, status=ARCHIVED)]

CASES: list[tuple[str, str, Sequence[Image], list[int]]] = [
    # ---- examples of the guide
    (
        "X prefix prod, older than 14 days",
        policy(select("pushed", 14, tagPrefixList=["prod"])),
        [img(1, 15, "prod1")],
        [1],
    ),
    (
        "X pattern prod*, older than 14 days",
        policy(select("pushed", 14, tagPatternList=["prod*"])),
        [img(1, 15, "prod")],
        [1],
    ),
    (
        "X pattern prod*: other tags stay",
        policy(select("pushed", 14, tagPatternList=["prod*"])),
        [img(1, 15, "beta")],
        [],
    ),
    (
        "X one untagged image is kept",
        policy(select("count", 1, tagStatus="untagged")),
        [img(1, 3), img(2, 2), img(3, 1)],
        [1, 2],
    ),
    (
        "X one untagged: tagged ones do not count",
        policy(select("count", 1, tagStatus="untagged")),
        [img(1, 3), img(2, 2, "a")],
        [],
    ),
    (
        "X prod 1, then beta 1: expires A",
        policy(select("count", 1, tagPrefixList=PROD), select("count", 1, tagPrefixList=BETA)),
        THREE,
        [1],
    ),
    (
        "X beta 1, then prod 1: expires A and B",
        policy(select("count", 1, tagPrefixList=BETA), select("count", 1, tagPrefixList=PROD)),
        THREE,
        [1, 2],
    ),
    (
        "X a list of two prefixes is AND",
        policy(select("count", 1, tagPrefixList=["alpha", "beta"])),
        [img(1, 3, "alpha-1", "beta-1"), img(2, 2, "alpha-2", "beta-2"), img(3, 1, "alpha-3")],
        [1],
    ),
    (
        "X a list of two patterns is AND",
        policy(select("pushed", 5, tagPatternList=["alpha*", "beta*"])),
        PATTERNED,
        [1],
    ),
    (
        "X alpha*, then beta*: each for itself",
        policy(select("pushed", 5, tagPatternList=["alpha*"]), select("pushed", 5, tagPatternList=["beta*"])),
        PATTERNED,
        [1, 2, 3],
    ),
    ("X any: five images are kept", policy(select("count", 5)), [img(n, 20 - n) for n in range(1, 8)], [1, 2]),
    ("X any: all of them count", policy(select("count", 1)), [img(1, 3, "a"), img(2, 2), img(3, 1, "b")], [1, 2]),
    (
        "X combined: prod* 2, alpha* 1, any 10 days",
        policy(
            select("count", 1, tagPatternList=["prod*"]), select("pushed", 1, tagStatus="untagged"), select("count", 1)
        ),
        [img(1, 12, "prod-1"), img(2, 11), img(3, 10, "prod-2"), img(4, 9, "beta-1"), img(5, 8, "beta-2")],
        [1, 2, 4],
    ),
    (
        "X archive what was not pulled for 90 days",
        policy(select("pulled", 90), action=TO_ARCHIVE),
        [img(1, 200, pulled=91)],
        [1],
    ),
    (
        "X expire 365 days after archiving",
        policy(select("archived", 365)),
        [img(1, 900, archived=366, status=ARCHIVED)],
        [1],
    ),
    # ---- ages
    ("P older than the number of days", policy(UNTAGGED), [OLD, NEW], [1]),
    ("P exactly so old stays", policy(UNTAGGED), [img(1, 14)], []),
    ("P a moment older goes", policy(UNTAGGED), [img(1, 14.0001)], [1]),
    ("P pushed in the future stays", policy(UNTAGGED), [img(1, -1)], []),
    ("P one day is the least", policy(select("pushed", 1)), [img(1, 1.01), img(2, 0.99)], [1]),
    (
        "P ages do not depend on the count",
        policy(select("pushed", 1)),
        [img(n, 2) for n in range(1, 9)],
        list(range(1, 9)),
    ),
    ("P a number past all days keeps all", policy(select("pushed", 10**30)), [img(1, 999)], []),
    (
        "P pulled: by the last pull",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 50, pulled=9), img(2, 50, pulled=11)],
        [2],
    ),
    (
        "P pulled: never pulled, by the push",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 11), img(2, 9)],
        [1],
    ),
    (
        "P pulled: exactly so long ago stays",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 50, pulled=10)],
        [],
    ),
    (
        "R pulled: restored and not pulled since, by the restoration",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 90, pulled=80, restored=5)],
        [],
    ),
    (
        "R pulled: restored long ago, not pulled since",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 90, pulled=80, restored=11)],
        [1],
    ),
    (
        "R pulled: restored, then pulled",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 90, restored=80, pulled=5)],
        [],
    ),
    (
        "R pulled: restored, then pulled long ago",
        policy(select("pulled", 10), action=TO_ARCHIVE),
        [img(1, 90, restored=80, pulled=11)],
        [1],
    ),
    (
        "R pushed: restored images are as old as their restoration",
        policy(UNTAGGED),
        [img(1, 90, restored=13), img(2, 90, restored=15)],
        [2],
    ),
    ("R pushed: restored at any time in the past", policy(UNTAGGED), [img(1, 900, restored=899)], [1]),
    ("R count: a restored image is the newest", policy(select("count", 1)), [img(1, 90, restored=1), img(2, 5)], [2]),
    (
        "R count: and not, where one was pushed since",
        policy(select("count", 1)),
        [img(1, 90, restored=6), img(2, 5)],
        [1],
    ),
    ("r#2728 expire by pull, where the setting allows it", policy(select("pulled", 10)), [img(1, 50, pulled=11)], [1]),
    # ---- counts
    ("P as many as the number stay", policy(select("count", 2)), [img(1, 2), img(2, 1)], []),
    ("P one more: the oldest goes", policy(select("count", 2)), [img(1, 3), img(2, 2), img(3, 1)], [1]),
    ("P none there", policy(select("count", 2)), [], []),
    ("P the order of listing is nothing", policy(select("count", 1)), [img(3, 1), img(1, 3), img(2, 2)], [1, 2]),
    ("ours: of one moment, the later row is the newer", policy(select("count", 1)), [img(1, 3), img(2, 3)], [1]),
    ("P a large number keeps all", policy(select("count", 10**9)), [img(1, 900)], []),
    (
        "P count: only the selected count",
        policy(select("count", 1, tagPrefixList=["v"])),
        [img(1, 3, "v1"), img(2, 2, "w1"), img(3, 1, "v2")],
        [1],
    ),
    ("P count with transition", policy(select("count", 1), action=TO_ARCHIVE), [img(1, 2), img(2, 1)], [1]),
    ("P pushed with transition", policy(select("pushed", 5), action=TO_ARCHIVE), [img(1, 6), img(2, 4)], [1]),
    # ---- tags
    (
        "P untagged: none with a tag",
        policy(select("pushed", 1, tagStatus="untagged")),
        [img(1, 9, "a"), img(2, 9)],
        [2],
    ),
    ("P tagged: none without", policy(select("pushed", 1, tagPatternList=["*"])), [img(1, 9, "a"), img(2, 9)], [1]),
    ("P any: both", policy(select("pushed", 1)), [img(1, 9, "a"), img(2, 9)], [1, 2]),
    ("P a prefix is one of any tag", policy(select("pushed", 1, tagPrefixList=["v"])), [img(1, 9, "a", "v1")], [1]),
    ("P a prefix may be all of a tag", policy(select("pushed", 1, tagPrefixList=["v1"])), [img(1, 9, "v1")], [1]),
    ("P a prefix is no substring", policy(select("pushed", 1, tagPrefixList=["1"])), [img(1, 9, "v1")], []),
    ("P prefixes tell cases apart", policy(select("pushed", 1, tagPrefixList=["V"])), [img(1, 9, "v1")], []),
    (
        "ours: a star in a prefix is no wildcard",
        policy(select("pushed", 1, tagPrefixList=["v*1"])),
        [img(1, 9, "v-1")],
        [],
    ),
    (
        "P a pattern without a star is the tag",
        policy(select("pushed", 1, tagPatternList=["v1"])),
        [img(1, 9, "v1"), img(2, 9, "v11")],
        [1],
    ),
    ("P a star may be nothing", policy(select("pushed", 1, tagPatternList=["v1*"])), [img(1, 9, "v1")], [1]),
    (
        "P a star at the beginning",
        policy(select("pushed", 1, tagPatternList=["*-rc"])),
        [img(1, 9, "v1-rc"), img(2, 9, "v1-rc2")],
        [1],
    ),
    (
        "P a star in the midst",
        policy(select("pushed", 1, tagPatternList=["v*-rc"])),
        [img(1, 9, "v1-rc"), img(2, 9, "w1-rc")],
        [1],
    ),
    (
        "P four stars",
        policy(select("pushed", 1, tagPatternList=["*test*1*2*3"])),
        [img(1, 9, "a-test-1-2-3"), img(2, 9, "a-test-1-3-2")],
        [1],
    ),
    (
        "P stars overlap nothing",
        policy(select("pushed", 1, tagPatternList=["ab*ba"])),
        [img(1, 9, "aba"), img(2, 9, "abba")],
        [2],
    ),
    (
        "P a dot is a dot",
        policy(select("pushed", 1, tagPatternList=["1.*"])),
        [img(1, 9, "1.2"), img(2, 9, "1x2")],
        [1],
    ),
    (
        "P a bracket-free language: ? is no wildcard",
        policy(select("pushed", 1, tagPatternList=["v?"])),
        [img(1, 9, "v1")],
        [],
    ),
    (
        "P AND: one tag may match two patterns",
        policy(select("pushed", 1, tagPatternList=["a*", "*b"])),
        [img(1, 9, "ab")],
        [1],
    ),
    (
        "P AND: two tags, one each",
        policy(select("pushed", 1, tagPatternList=["a*", "b*"])),
        [img(1, 9, "a1", "b1")],
        [1],
    ),
    (
        "P AND: one of two is not enough",
        policy(select("pushed", 1, tagPatternList=["a*", "b*"])),
        [img(1, 9, "a1", "a2")],
        [],
    ),
    (
        "P AND of prefixes",
        policy(select("pushed", 1, tagPrefixList=["a", "b"])),
        [img(1, 9, "a1", "b1"), img(2, 9, "b1")],
        [1],
    ),
    (
        "P a list in one rule, a prefix in another",
        policy(select("pushed", 1, tagPrefixList=["a"]), select("pushed", 1, tagPatternList=["b*"])),
        [img(1, 9, "a"), img(2, 9, "b")],
        [1, 2],
    ),
    # ---- priorities
    (
        "G at most one rule acts on an image",
        policy(select("pushed", 5, tagPrefixList=["a"]), select("pushed", 5)),
        [img(1, 9, "a")],
        [1],
    ),
    (
        "G what a rule of higher priority keeps stays",
        policy(select("count", 1, tagPrefixList=["a"]), select("pushed", 1)),
        [img(1, 9, "a")],
        [],
    ),
    (
        "G also where a later rule counts it",
        policy(select("count", 1, tagPrefixList=["a"]), select("count", 1)),
        [img(1, 9, "a"), img(2, 1)],
        [],
    ),
    (
        "G all rules are evaluated as if nothing was expired",
        policy(select("count", 1, tagPrefixList=["a"]), select("count", 2)),
        [img(1, 9, "a"), img(2, 8, "a"), img(3, 7), img(4, 6)],
        [1],
    ),
    (
        "G a later rule counts what an earlier one expires",
        policy(select("pushed", 8, tagPrefixList=["a"]), select("count", 1)),
        [img(1, 9, "a"), img(2, 7), img(3, 8.5, "a")],
        [1, 3],
    ),
    (
        "G a kept one takes a later rule's place",
        policy(select("count", 1, tagPrefixList=["a"]), select("count", 1)),
        [img(1, 1, "a"), img(2, 2)],
        [2],
    ),
    (
        "G untagged, then any",
        policy(select("pushed", 5, tagStatus="untagged"), select("pushed", 8)),
        [img(1, 6), img(2, 6, "a"), img(3, 9, "a")],
        [1, 3],
    ),
    (
        "G untagged kept from any",
        policy(select("pushed", 30, tagStatus="untagged"), select("pushed", 8)),
        [img(1, 20), img(2, 20, "a")],
        [2],
    ),
    (
        "G an image with two tags belongs to the first rule",
        policy(select("count", 1, tagPrefixList=["a"]), select("pushed", 1, tagPrefixList=["b"])),
        [img(1, 9, "a1", "b1")],
        [],
    ),
    (
        "G three rules",
        policy(select("count", 1, tagPrefixList=["a"]), select("count", 1, tagPrefixList=["b"]), select("pushed", 3)),
        [img(1, 9, "a"), img(2, 8, "a"), img(3, 7, "b"), img(4, 6, "b"), img(5, 5), img(6, 1)],
        [1, 3, 5],
    ),
    (
        "G transition before expire",
        policy({**select("pushed", 5), "action": TO_ARCHIVE}, select("archived", 90)),
        [img(1, 6)],
        [1],
    ),
    # ---- storage classes
    (
        "P archived images do not count",
        policy(select("count", 1)),
        [img(1, 9, archived=5, status=ARCHIVED), img(2, 8)],
        [],
    ),
    (
        "P archived images are not pushed long ago",
        policy(select("pushed", 1)),
        [img(1, 9, archived=5, status=ARCHIVED)],
        [],
    ),
    (
        "P archived images are not unpulled",
        policy(select("pulled", 1), action=TO_ARCHIVE),
        [img(1, 9, archived=5, status=ARCHIVED)],
        [],
    ),
    ("P archive: by the transition, only archived ones", policy(select("archived", 90)), CLASSES, [1]),
    ("A exactly 90 days stay", policy(select("archived", 90)), [img(1, 400, archived=90, status=ARCHIVED)], []),
    (
        "P archive: with a pattern",
        policy(select("archived", 90, tagPatternList=["v*"])),
        [img(1, 400, "v1", archived=91, status=ARCHIVED), img(2, 400, archived=91, status=ARCHIVED)],
        [1],
    ),
    (
        "P archive: untagged",
        policy(select("archived", 90, tagStatus="untagged")),
        [img(1, 400, "v1", archived=91, status=ARCHIVED), img(2, 400, archived=91, status=ARCHIVED)],
        [2],
    ),
    (
        "R a restored image is of the standard class",
        policy(select("archived", 90)),
        [img(1, 400, archived=300, restored=200)],
        [],
    ),
    (
        "P any of one class keeps nothing from the other",
        policy(select("count", 9), select("archived", 90)),
        CLASSES,
        [1],
    ),
    ("P each class has its any rule", policy(select("archived", 90), select("pushed", 300)), CLASSES, [1, 2]),
    (
        "R an image that is being restored is left alone",
        policy(select("pushed", 1)),
        [img(1, 9, archived=5, status=ACTIVATING)],
        [],
    ),
    (
        "P archived again: by the last time",
        policy(select("archived", 90)),
        [img(1, 900, archived=10, restored=500, status=ARCHIVED)],
        [],
    ),
    # ---- indexes
    ("G an index and its images go together", policy(select("pushed", 1)), PAIR, [1, 2, 3]),
    ("G images wait for their index", policy(select("pushed", 1, tagStatus="untagged")), PAIR, []),
    (
        "G an index goes without images that no rule marks",
        policy(select("pushed", 1, tagPatternList=["v*"])),
        PAIR,
        [3],
    ),
    (
        "G one index of two holds its image",
        policy(select("pushed", 4)),
        [img(1, 5, parents=(2, 3)), img(2, 5), img(3, 1)],
        [2],
    ),
    (
        "G an index in an index",
        policy(select("pushed", 1)),
        [img(1, 5, parents=(2,)), img(2, 4, parents=(3,)), img(3, 3)],
        [1, 2, 3],
    ),
    (
        "G the outer index holds all",
        policy(select("pushed", 2)),
        [img(1, 5, parents=(2,)), img(2, 4, parents=(3,)), img(3, 1)],
        [],
    ),
    ("G children count (r#1466)", policy(select("count", 2)), PAIR, []),
    ("G children count as untagged", policy(select("count", 1, tagStatus="untagged")), [*PAIR, img(4, 9)], [4]),
    (
        "G a child with a tag of its own waits, too",
        policy(select("pushed", 1, tagPatternList=["c*"])),
        [img(1, 5, "c1", parents=(2,)), img(2, 4, "v1")],
        [],
    ),
    (
        "G an index that is archived lets its images be archived",
        policy(select("pushed", 1), action=TO_ARCHIVE),
        [img(1, 5, parents=(2,)), img(2, 4, archived=3, status=ARCHIVED)],
        [1],
    ),
    (
        "G but not expired",
        policy(select("pushed", 1)),
        [img(1, 5, parents=(2,)), img(2, 4, archived=3, status=ARCHIVED)],
        [],
    ),
    ("G archived with their index", policy(select("pushed", 1), action=TO_ARCHIVE), PAIR, [1, 2, 3]),
    (
        "G archived while their index expires",
        policy(select("pushed", 1, tagPatternList=["v*"]), {**select("pushed", 1), "action": TO_ARCHIVE}),
        PAIR,
        [1, 2, 3],
    ),
    (
        "G not expired while their index is archived",
        policy({**select("pushed", 1, tagPatternList=["v*"]), "action": TO_ARCHIVE}, select("pushed", 1)),
        PAIR,
        [3],
    ),
    (
        "G an archived index expires before its archived images",
        policy(select("archived", 90)),
        [img(1, 500, archived=91, status=ARCHIVED, parents=(2,)), img(2, 500, archived=91, status=ARCHIVED)],
        [1, 2],
    ),
    (
        "G and they wait for it",
        policy(select("archived", 90)),
        [img(1, 500, archived=91, status=ARCHIVED, parents=(2,)), img(2, 500, archived=80, status=ARCHIVED)],
        [],
    ),
    # ---- referrers
    (
        "G a referrer goes with its subject",
        policy(select("pushed", 5)),
        [img(1, 9, "v1"), img(2, 1, subject=1)],
        [1, 2],
    ),
    ("G a referrer of what stays, stays", policy(select("pushed", 5)), [img(1, 1, "v1"), img(2, 9, subject=1)], []),
    (
        "ours: referrers are selected by no rule",
        policy(select("pushed", 5, tagStatus="untagged")),
        [img(1, 9, "v1"), img(2, 9, subject=1)],
        [],
    ),
    ("ours: referrers do not count", policy(select("count", 1)), [img(1, 9, "v1"), img(2, 1, subject=1)], []),
    (
        "G a referrer of a referrer",
        policy(select("pushed", 5)),
        [img(1, 9), img(2, 1, subject=1), img(3, 1, subject=2)],
        [1, 2, 3],
    ),
    (
        "G a referrer that was pushed before its subject",
        policy(select("pushed", 5)),
        [img(1, 9, subject=2), img(2, 9)],
        [1, 2],
    ),
    (
        "G referrers follow into the archive",
        policy(select("pushed", 5), action=TO_ARCHIVE),
        [img(1, 9), img(2, 1, subject=1)],
        [1, 2],
    ),
    (
        "G one that is there already stays",
        policy(select("pushed", 5), action=TO_ARCHIVE),
        [img(1, 9), img(2, 9, subject=1, archived=1, status=ARCHIVED)],
        [1],
    ),
    (
        "G archived referrers expire with their subject",
        policy(select("archived", 90)),
        [img(1, 500, archived=91, status=ARCHIVED), img(2, 500, archived=80, status=ARCHIVED, subject=1)],
        [1, 2],
    ),
    (
        "ours: a tagged referrer follows, too",
        policy(select("pushed", 5, tagPatternList=["sha256-*"])),
        [img(1, 9, "v1"), img(2, 9, "sha256-1.sig", subject=1)],
        [],
    ),
    ("ours: without its subject it is an image", policy(select("pushed", 5, tagStatus="untagged")), [img(2, 9)], [2]),
    (
        "G a referrer of a child that waits, waits",
        policy(select("pushed", 1, tagStatus="untagged")),
        [*PAIR, img(4, 9, subject=1)],
        [],
    ),
    # ---- nothing to do
    ("ours: no rules", policy(), [img(1, 999)], []),
    ("G a repository without images", policy(select("pushed", 1)), [], []),
]
