"""`model.lru`: which entry goes when one more comes."""

from __future__ import annotations

import contextlib
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.lru import Lru

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("get", "index", "set", "peek", "delete", "setdefault", "in", "oldest")), st.integers(0, 5)
    )
)


@given(st.integers(1, 4), _STEPS)
def test_it_keeps_what_an_ordered_dictionary_that_is_trimmed_by_hand_keeps(
    entries: int, steps: list[tuple[str, int]]
) -> None:
    kept, model = Lru[int, str](entries), OrderedDict[int, str]()
    for number, (step, key) in enumerate(steps):
        value = str(number)
        if step == "set" or (step == "setdefault" and key not in model):
            model[key] = value
        if step in ("get", "index", "set", "setdefault") and key in model:
            model.move_to_end(key)
        while len(model) > entries:
            model.popitem(last=False)
        match step:
            case "get":
                assert kept.get(key) == model.get(key)
                assert kept.get(key, "none") == model.get(key, "none")
            case "index":
                with contextlib.nullcontext() if key in model else pytest.raises(KeyError):
                    assert kept[key] == model[key]
            case "set":
                kept[key] = value
            case "setdefault":
                assert kept.setdefault(key, value) == model[key]
            case "peek":
                assert kept.peek(key) == model.get(key)
            case "oldest":
                with contextlib.nullcontext() if model else pytest.raises(KeyError):
                    assert kept.popitem() == model.popitem(last=False)
            case "in":
                assert (key in kept) == (key in model)
            case _:
                assert kept.pop(key, None) == model.pop(key, None)
        assert list(kept.values()) == list(model.values())
        assert list(kept.items()) == list(model.items()), "least recently used first"


def test_a_value_that_is_none_is_used_like_any_other() -> None:
    kept = Lru[str, None](2)
    kept["a"] = kept["b"] = None
    assert kept.get("a", None) is None
    kept["c"] = None
    assert list(kept) == ["a", "c"]
