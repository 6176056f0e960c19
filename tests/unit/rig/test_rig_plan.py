"""What the seed decides: names, layers, the order of operations, the instants that they are due at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.manifests import read_manifest
from proxy.rig import plan
from proxy.rig.arrivals import arrivals
from proxy.rig.content import digest_of
from proxy.rig.plan import ImageShape, Target
from proxy.rig.sizes import parse_sizes
from support.programs import ROOT

SHAPE = ImageShape(seed=7, layers=4, sizes=parse_sizes("uniform:1KiB-64KiB"), shared=2, repositories=3)
WEIGHTS = {"push": 1, "pull": 8, "tag": 2, "head": 4, "list": 1, "range": 1}


def told(shape: ImageShape) -> str:
    """All that a seed decides, as text."""
    facts = {
        "targets": [str(shape.target(image)) for image in range(5)],
        "layers": [
            [layer.size, digest_of(layer.key, layer.size)]
            for image in range(3)
            for number in range(shape.layers)
            for layer in [shape.layer(image, number)]
        ],
        "mix": [str(each) for each in islice(plan.mixed(shape.seed, WEIGHTS, 10), 50)],
        "pulls": [str(each) for each in islice(plan.pulls(shape.seed, 7), 30)],
        "due": list(islice(arrivals(5, spacing="poisson", ramp=2, seed=shape.seed), 20)),
    }
    return json.dumps(facts)


def test_the_same_seed_decides_the_same_in_another_process() -> None:
    """Whose hashes of strings are others."""
    script = "from test_rig_plan import SHAPE, told; print(told(SHAPE))"
    path = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'unit' / 'rig'}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path, "PYTHONHASHSEED": "5"}, capture_output=True, text=True
    )
    assert done.stdout.strip() == told(SHAPE), done.stderr


def test_a_seed_decides_as_it_always_has() -> None:
    """A pull finds what a push of an older version made."""
    layer = SHAPE.layer(1, 3)
    assert SHAPE.target(4) == Target("rig/s7-r1", "i4")
    assert (layer.key, layer.size) == (b"7/1/3", 23386)
    assert [each.kind for each in islice(plan.mixed(7, WEIGHTS, 10), 8)] == [
        "head",
        "range",
        "range",
        "pull",
        "pull",
        "pull",
        "push",
        "range",
    ]
    assert [each.image for each in islice(plan.pulls(7, 5), 5)] == [4, 0, 1, 2, 3]


def test_another_seed_shares_no_layer_and_no_repository() -> None:
    other = ImageShape(seed=8, layers=4, sizes=SHAPE.sizes, shared=2, repositories=3)
    keys = {shape.layer(image, number).key for shape in (SHAPE, other) for image in range(3) for number in range(4)}
    assert len(keys) == 2 * (2 + 3 * 2)
    assert SHAPE.target(0).repository != other.target(0).repository


def test_the_first_layers_are_those_of_the_base_image() -> None:
    assert [SHAPE.layer(0, number) == SHAPE.layer(1, number) for number in range(4)] == [True, True, False, False]
    assert [SHAPE.layer(0, number).shared for number in range(4)] == [True, True, False, False]


def test_images_take_turns_over_the_repositories() -> None:
    assert Counter(SHAPE.target(image).repository for image in range(9)) == {f"rig/s7-r{n}": 3 for n in range(3)}


def test_pushes_take_each_image_once_in_order() -> None:
    assert [(each.kind, each.image) for each in islice(plan.pushes(7), 3)] == [("push", 0), ("push", 1), ("push", 2)]


@given(seed=st.integers(0, 2**63 - 1), images=st.integers(1, 20))
def test_each_round_of_pulls_takes_every_image_once(seed: int, images: int) -> None:
    taken = [each.image for each in islice(plan.pulls(seed, images), 3 * images)]
    for start in range(0, 3 * images, images):
        assert sorted(taken[start : start + images]) == list(range(images))


def test_rounds_are_in_orders_of_their_own() -> None:
    taken = [each.image for each in islice(plan.pulls(7, 20), 40)]
    assert taken[:20] != taken[20:]


def test_kinds_come_as_often_as_they_weigh() -> None:
    counted = Counter(each.kind for each in islice(plan.mixed(7, WEIGHTS, 10), 17_000))
    assert set(counted) == set(WEIGHTS)
    assert all(counted[kind] == pytest.approx(1000 * weight, rel=0.15) for kind, weight in WEIGHTS.items())


def test_a_mix_reads_the_first_images_and_pushes_those_that_follow() -> None:
    taken = list(islice(plan.mixed(7, WEIGHTS, 10), 2000))
    pushed = [each.image for each in taken if each.kind == "push"]
    assert pushed == list(range(10, 10 + len(pushed)))
    assert {each.image for each in taken if each.kind != "push"} == set(range(10))


@pytest.mark.parametrize(
    ("text", "found"),
    [("pull=8, push=1", {"push": 1, "pull": 8}), ("tag=1", {"tag": 1}), ("head=0,list=3", {"list": 3})],
)
def test_weights_are_kinds_in_one_order_whatever_they_were_written_in(text: str, found: dict[str, int]) -> None:
    assert list(plan.parse_weights(text).items()) == list(found.items())


@pytest.mark.parametrize(
    "text", ["", "pull", "pull=-1", "pull=1,pull=2", "steal=1", "pull=0", "pull=1.5", "pull=9999999"]
)
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"weight|each kind once"):
        plan.parse_weights(text)


def test_the_manifest_is_one_that_a_strict_registry_reads() -> None:
    config, layer = ("sha256:" + "0" * 64, 2), ("sha256:" + "1" * 64, 3)
    assert set(read_manifest(plan.manifest(config, [layer]), plan.IMAGE_TYPE).blobs) == {config, layer}


# ---- arrivals ------------------------------------------------------------------------------------------------------


def test_steady_arrivals_come_at_the_rate() -> None:
    assert list(islice(arrivals(4, spacing="steady", ramp=0, seed=1), 4)) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("spacing", ["steady", "poisson"])
def test_a_ramp_brings_half_as_many(spacing: str) -> None:
    due = list(islice(arrivals(100, spacing=spacing, ramp=20, seed=1), 3000))
    assert due == sorted(due)
    assert sum(at < 20 for at in due) == pytest.approx(1000, rel=0.1)
    assert sum(at < 10 for at in due) == pytest.approx(250, rel=0.2)
    assert sum(20 <= at < 30 for at in due) == pytest.approx(1000, rel=0.1)


def test_poisson_arrivals_are_spread_as_exponentials_are() -> None:
    """As many gaps are longer than the mean as chance has it, 1/e."""
    due = list(islice(arrivals(10, spacing="poisson", ramp=0, seed=3), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert sum(gaps) / len(gaps) == pytest.approx(0.1, rel=0.03)
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.015)
