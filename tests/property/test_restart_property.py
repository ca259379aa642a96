"""RestartBudget: never too many starts in a window, and delays that double."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.machines.restart import RestartBudget
from flowbridge.plan import RestartPolicy, RestartWhen

POLICY = st.builds(
    RestartPolicy,
    when=st.sampled_from([RestartWhen.ON_FAILURE, RestartWhen.ALWAYS]),
    max=st.integers(0, 5),
    window_ns=st.integers(1, 100),
    delay_ns=st.integers(0, 10),
    delay_max_ns=st.integers(0, 30),
)
RUN = st.integers(0, 60)
"""How long a node runs before it fails again."""


@given(POLICY, st.lists(RUN, max_size=40))
def test_no_window_holds_more_starts_than_allowed(policy: RestartPolicy, runs_ns: list[int]) -> None:
    budget = RestartBudget(policy)
    starts: list[int] = []
    now_ns = 1_000
    for run_ns in runs_ns:
        now_ns += run_ns
        recent = [start for start in starts if start > now_ns - policy.window_ns]
        delay_ns = budget.ask(failed=True, now_ns=now_ns)
        if delay_ns is None:
            assert len(recent) == policy.max, "refused although there was room in the window"
            continue
        assert delay_ns == min(policy.delay_ns * 2 ** len(recent), policy.delay_max_ns)
        now_ns += delay_ns
        starts.append(now_ns)
    for start in starts:
        assert sum(start <= other < start + policy.window_ns for other in starts) <= policy.max


@given(POLICY, st.integers(0, 100))
def test_failures_without_a_pause_double_the_delay_up_to_its_bound(policy: RestartPolicy, now_ns: int) -> None:
    budget = RestartBudget(policy)
    asked = [budget.ask(failed=True, now_ns=now_ns) for _ in range(policy.max + 1)]
    wanted = [min(policy.delay_ns << count, policy.delay_max_ns) for count in range(policy.max)]
    assert asked == [*wanted, None]
