"""Budgets as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinet.errors import UsageError
from sinet.search.budget import Budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10ms", Budget(ms=10)),
        ("10 ms", Budget(ms=10)),
        ("0.5s", Budget(ms=500)),
        ("30fps", Budget(ms=1000 / 30)),
        ("30FPS", Budget(ms=1000 / 30)),
        ("4MB", Budget(mb=4)),
        ("4mb", Budget(mb=4)),
        ("900KB", Budget(mb=0.9)),
        ("200MB-ram", Budget(memory_mb=200)),
        ("1.5GB-ram", Budget(memory_mb=1500)),
        ("10ms,4MB", Budget(ms=10, mb=4)),
        ("10ms 4MB 200MB-ram", Budget(ms=10, mb=4, memory_mb=200)),
        (" 200MB-ram, .5ms ", Budget(ms=0.5, memory_mb=200)),
    ],
)
def test_what_is_accepted(text: str, expected: Budget) -> None:
    assert Budget.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not understood"),
        ("fast", "not understood"),
        ("10", "not understood"),
        ("10 parsecs", "not understood"),
        ("10ms or so", "not understood"),
        ("-10ms", "not understood"),
        ("10ms;4MB", "not understood"),
        ("0ms", "not above zero"),
        ("0fps", "not above zero"),
        ("10ms 20ms", "twice"),
        ("10ms 30fps", "twice"),
        ("10ms-ram", "mixes time and memory"),
    ],
)
def test_what_is_refused_says_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Budget.parse(text)
    assert "twice" in message or "10ms" in str(caught.value)


limits = st.none() | st.floats(1e-3, 1e6)


@given(limits, limits, limits)
def test_what_is_printed_is_read_back(
    ms: float | None, mb: float | None, memory: float | None
) -> None:
    budget = Budget(ms, mb, memory)
    if (ms, mb, memory) != (None, None, None):
        assert Budget.parse(str(budget)) == budget


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except UsageError:
        return
    given_limits = [v for v in (budget.ms, budget.mb, budget.memory_mb) if v is not None]
    assert given_limits
    assert all(v > 0 and math.isfinite(v) for v in given_limits)


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_reason_is_given_exactly_when_a_limit_is_broken(limit: float, value: float) -> None:
    budget = Budget(ms=limit)
    assert bool(budget.why_not(ms=value)) == (value > limit)
    assert (budget.excess(ms=value) > 1) == (value > limit) or math.isclose(value, limit)


def test_each_broken_limit_is_named() -> None:
    why = Budget(10, 4, 200).why_not(12, 5, 100)
    assert why == "12 ms > 10; 5 MB of file > 4"
    assert Budget(10).why_not(None, 100, 1000) == ""
    assert Budget(10, 4).excess(5, 8) == 2
    assert Budget().excess(5, 8) == 0
