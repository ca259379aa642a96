"""Requests made again: never too often, never too late, and never done twice while they are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowbridge.codec.codes import CODES, Code, Fault, error_of
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import Effect, NoResponderError, Retry
from flowbridge.limits import REQUEST_ATTEMPTS_MAX, REQUEST_KEPT_NS, RETRY_BASE_NS, RETRY_BURST, RETRY_SHARE
from flowbridge.machines.request_memory import RequestMemory
from flowbridge.machines.retry import Backoff, RetryBudget, may_repeat

CHANCE = st.floats(0, 1, exclude_max=True)
AGAIN = st.none() | st.integers(0, 10**10)


@given(st.sampled_from(Code), st.booleans())
def test_a_code_is_repeated_as_its_rule_says(code: Code, idempotent: bool) -> None:
    repeats = may_repeat(error_of(code), idempotent=idempotent)
    rule = CODES[code]
    if rule.retry is Retry.NEVER or code.fault is Fault.AUTH or rule.error is NoResponderError:
        assert not repeats
    else:
        assert repeats is (idempotent or rule.effect is Effect.NONE)


def test_whoever_is_not_one_of_ours_is_not_repeated() -> None:
    assert not may_repeat(ValueError(), idempotent=True)


@given(st.lists(st.booleans(), max_size=400))
def test_of_so_many_requests_one_is_made_again_and_a_few_at_once(steps: list[bool]) -> None:
    budget = RetryBudget()
    since = {0: (0, 0)}  # requests and repetitions up to each step
    made = again = 0
    for number, is_request in enumerate(steps):
        if is_request:
            budget.earn()
            made += 1
        else:
            left = budget.left
            assert budget.spend() is (left > 0)
            again += left > 0
        since[number + 1] = (made, again)
    for made_before, again_before in since.values():  # whenever one begins to count
        assert again - again_before <= RETRY_BURST + (made - made_before) / RETRY_SHARE


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.lists(st.tuples(AGAIN, CHANCE, st.integers(0, 10**9))))
def test_attempts_are_few_spread_and_inside_the_deadline(
    now_ns: int, timeout_ns: int, failures: list[tuple[int | None, float, int]]
) -> None:
    deadline_ns = min(now_ns + timeout_ns, NO_DEADLINE)
    backoff = Backoff(deadline_ns)
    for after_ns, chance, took_ns in failures:
        attempt = backoff.attempt
        at_ns = backoff.next_ns(now_ns, after_ns, chance)
        least_ns = (RETRY_BASE_NS << (attempt - 1)) // 2 if after_ns is None else after_ns
        if at_ns is None:
            most_ns = 3 * least_ns if after_ns is None else least_ns * 3 // 2
            assert attempt == REQUEST_ATTEMPTS_MAX or now_ns + most_ns >= deadline_ns
            assert backoff.attempt == attempt
            return
        assert backoff.attempt == attempt + 1 <= REQUEST_ATTEMPTS_MAX
        assert now_ns + least_ns <= at_ns < deadline_ns
        assert at_ns <= now_ns + (3 * least_ns if after_ns is None else least_ns * 3 // 2)
        now_ns = at_ns + took_ns


def test_pauses_cover_their_whole_range() -> None:
    pauses_ns = {Backoff(NO_DEADLINE).next_ns(0, None, chance / 100) for chance in range(100)}
    assert len(pauses_ns) == 100
    assert min(p for p in pauses_ns if p is not None) == RETRY_BASE_NS // 2


# --- the memory -----------------------------------------------------------------------------------------------------

ENTRIES, BYTES = 4, 100
WHO = st.sampled_from(["", "a", "b"])
NAME = st.tuples(st.just("t"), st.integers(0, 7))


class Memory(RuleBasedStateMachine):
    """Against lists that are looked through from the front."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: RequestMemory[str] = RequestMemory(ENTRIES, BYTES)
        # who, name, token, outcome, size, until, keep: from the one that was not asked for the longest on
        self.model: list[list[object]] = []
        self.now_ns = 0
        self.tokens = 0

    def of(self, who: str) -> list[list[object]]:
        return [one for one in self.model if one[0] == who]

    def trim(self, who: str) -> None:
        while mine := self.of(who):
            size = sum(int(str(one[4])) for one in mine)
            if len(mine) <= ENTRIES and size <= BYTES and int(str(mine[0][5])) > self.now_ns:
                return
            self.model.remove(mine[0])

    @rule(who=WHO, name=NAME, timeout_ns=st.integers(0, REQUEST_KEPT_NS))
    def ask(self, who: str, name: tuple[str, int], timeout_ns: int) -> None:
        wanted = next((one for one in self.of(who) if one[1] == name), None)
        if wanted is not None and int(str(wanted[5])) <= self.now_ns:
            self.model.remove(wanted)
            wanted = None
        known = self.memory.find(who, name, self.now_ns)
        if wanted is not None:
            assert known is not None
            assert known.outcome == wanted[3]
            self.model.remove(wanted)
            self.model.append(wanted)
            return
        assert known is None
        self.tokens += 1
        self.memory.begin(who, name, str(self.tokens), timeout_ns, self.now_ns)
        keep_ns = max(REQUEST_KEPT_NS, 2 * timeout_ns)
        self.model.append([who, name, str(self.tokens), None, 0, self.now_ns + keep_ns, keep_ns])
        self.trim(who)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), size=st.integers(0, BYTES + 1))
    def settle(self, data: st.DataObject, size: int) -> None:
        token = str(data.draw(st.integers(1, self.tokens)))
        self.memory.settle(token, f"of {token}", size, self.now_ns)
        for one in [one for one in self.model if one[2] == token and one[3] is None]:
            one[3:6] = [f"of {token}", size, self.now_ns + int(str(one[6]))]
            self.trim(str(one[0]))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        token = str(data.draw(st.integers(1, self.tokens)))
        self.memory.forget(token)
        self.model = [one for one in self.model if one[2] != token or one[3] is not None]

    @rule(by_ns=st.integers(0, REQUEST_KEPT_NS))
    def wait(self, by_ns: int) -> None:
        self.now_ns += by_ns

    @invariant()
    def is_bounded_and_as_the_model(self) -> None:
        assert len(self.memory) == len(self.model)
        for who in ("", "a", "b"):
            size = self.memory.kept_bytes(who)
            assert size == sum(int(str(one[4])) for one in self.of(who)) <= BYTES
            assert len(self.of(who)) <= ENTRIES
        waiting = sum(one[3] is None for one in self.model)
        assert f"{waiting} without outcome" in repr(self.memory)


TestMemory = Memory.TestCase
