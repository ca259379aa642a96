"""RestartBudget, by example."""

from __future__ import annotations

import pytest

from flowbridge.machines.restart import RestartBudget
from flowbridge.plan import RestartPolicy, RestartWhen

S = 10**9


@pytest.mark.parametrize(
    ("when", "failed", "starts"),
    [
        (RestartWhen.NEVER, True, False),
        (RestartWhen.NEVER, False, False),
        (RestartWhen.ON_FAILURE, True, True),
        (RestartWhen.ON_FAILURE, False, False),
        (RestartWhen.ALWAYS, True, True),
        (RestartWhen.ALWAYS, False, True),
    ],
)
def test_the_policy_says_when_a_node_starts_again(when: RestartWhen, *, failed: bool, starts: bool) -> None:
    delay_ns = RestartBudget(RestartPolicy(when=when, delay_ns=7)).ask(failed=failed, now_ns=0)
    assert delay_ns == (7 if starts else None)


def test_a_refusal_lasts_until_a_start_has_left_the_window() -> None:
    budget = RestartBudget(RestartPolicy(when=RestartWhen.ALWAYS, max=2, window_ns=10 * S, delay_ns=S))
    assert budget.ask(failed=True, now_ns=0) == S  # starts at 1 s
    assert budget.ask(failed=True, now_ns=2 * S) == 2 * S  # starts at 4 s
    assert budget.ask(failed=True, now_ns=11 * S - 1) is None
    assert budget.ask(failed=True, now_ns=11 * S) == 2 * S
    assert budget.ask(failed=True, now_ns=13 * S) is None


def test_a_refusal_does_not_count_as_a_start() -> None:
    budget = RestartBudget(RestartPolicy(when=RestartWhen.ALWAYS, max=1, window_ns=10, delay_ns=0))
    assert budget.ask(failed=True, now_ns=0) == 0
    assert [budget.ask(failed=True, now_ns=now_ns) for now_ns in (1, 5, 9)] == [None] * 3
    assert budget.ask(failed=True, now_ns=10) == 0


def test_a_very_long_row_of_starts_does_not_overflow_the_delay() -> None:
    policy = RestartPolicy(when=RestartWhen.ALWAYS, max=10_000, window_ns=S, delay_ns=1, delay_max_ns=10**12)
    budget = RestartBudget(policy)
    delays = [budget.ask(failed=True, now_ns=0) for _ in range(100)]
    assert delays[:4] == [1, 2, 4, 8]
    assert delays[-1] == 2**30
