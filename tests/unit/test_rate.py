"""Rate: what may be taken at once, and what comes back."""

from __future__ import annotations

import pytest

from flowbridge.machines.rate import Rate


@pytest.mark.parametrize(("burst", "at_once"), [(None, 4), (10, 10)])
def test_so_many_may_be_taken_at_once_and_come_back_with_time(burst: float | None, at_once: int) -> None:
    rate = Rate(4, burst)
    assert [rate.take(100.0) for _ in range(at_once + 1)] == [True] * at_once + [False]
    assert not rate.take(100.2)
    assert rate.take(100.3)
    assert not rate.take(100.3)
    assert [rate.take(1_000.0) for _ in range(at_once + 1)] == [True] * at_once + [False]
