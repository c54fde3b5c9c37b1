from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinet.data.preprocess import Preprocess
from sinet.deployment.metadata import Metadata
from sinet.errors import UsageError

PREPROCESS = Preprocess(32, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.875)


def make(**changes: object) -> Metadata:
    values = {"classes": ["a"], "class_ids": [1], "preprocess": PREPROCESS, "model": "m@32"}
    return Metadata(**{**values, **changes})  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.text(), st.one_of(st.integers(-(2**63), 2**63), st.text())), max_size=8)
)
def test_props_keep_every_name_and_the_type_of_every_id(
    classes: list[tuple[str, int | str]],
) -> None:
    facts = make(classes=[n for n, _ in classes], class_ids=[i for _, i in classes])
    back = Metadata.from_props(facts.to_props())
    assert back == facts
    assert [type(i) for i in back.class_ids] == [type(i) for i in facts.class_ids]


def test_props_are_strings_under_one_prefix() -> None:
    props = make().to_props()
    assert all(k.startswith("sinet.") and isinstance(v, str) for k, v in props.items())


def test_fields_of_a_later_version_are_passed_over() -> None:
    props = {**make().to_props(), "sinet.mood": '"good"', "other": "x"}
    assert Metadata.from_props(props) == Metadata.from_props(make().to_props())


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, "no SiNet metadata"),
        ({"sinet.model": "{"}, "damaged"),
        ({"sinet.model": '"m"'}, "damaged"),
        ({**make().to_props(), "sinet.preprocess": '{"size": -1}'}, "damaged"),
    ],
)
def test_absent_or_damaged_metadata_say_so(props: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Metadata.from_props(props, "a.onnx")


def test_each_class_needs_an_id() -> None:
    with pytest.raises(UsageError, match="2 class names but 1 class ids"):
        make(classes=["a", "b"])
