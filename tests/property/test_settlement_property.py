"""Both ends of a route whose consumer dies: nothing is lost, order is kept, and a state has every message once."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.envelope import Envelope
from flowbridge.limits import LANES
from flowbridge.machines.settlement import Settlement, Unsettled

if TYPE_CHECKING:
    from collections.abc import Sequence

Seqs = list[list[int]]
STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            ("send", "send", "send", "handle", "handle", "hold", "late", "return", "mark", "safe", "fail", "die")
        ),
        st.integers(0, 1),
        st.integers(1, 4),
    ),
    max_size=80,
)


def copy_of(state: Seqs) -> Seqs:
    return [list(lane) for lane in state]


class Consumer:
    """One process: its queue, and what its operator did."""

    def __init__(self, *, waits: bool, state: Seqs, known: Sequence[int]) -> None:
        self.settlement = Settlement(waits=waits)
        self.settlement.resume(known)
        self.seen = list(known)
        self.state = copy_of(state)
        self.queue: list[deque[Envelope]] = [deque() for _ in range(LANES)]
        self.held: list[list[Envelope]] = [[] for _ in range(LANES)]
        self.marked = copy_of(state)

    def take(self, lane: int, count: int) -> list[Envelope]:
        queue = self.queue[lane]
        taken = [queue.popleft() for _ in range(min(count, len(queue)))]
        self.settlement.lent(taken)
        return taken


class Model:
    def __init__(self, *, waits: bool) -> None:
        self.waits = waits
        self.sent: Seqs = [[] for _ in range(LANES)]
        self.next = 0
        self.unsettled = Unsettled()
        self.kept: list[deque[int]] = [deque() for _ in range(LANES)]  # what the producer must still have
        self.log: Seqs = [[] for _ in range(LANES)]  # all that any consumer ever did
        self.number = 0
        self.taken: list[tuple[int, Seqs, list[int]]] = []  # snapshots that are not safe
        self.safe: tuple[Seqs, list[int]] = ([[] for _ in range(LANES)], [-1] * LANES)
        self.consumer = self._successor()

    def _successor(self) -> Consumer:
        return Consumer(waits=self.waits, state=self.safe[0], known=self.safe[1])

    def settle(self, settled: Sequence[tuple[list[Envelope], int]]) -> None:
        for taken, expired in settled:
            assert 0 <= expired <= len(taken)
            kept = self.kept[taken[0].priority]
            for envelope in taken:
                assert kept.popleft() == envelope.seq, "settled in the order of sending"
            self.unsettled.settle(taken[0].priority, len(kept))
        assert len(self.unsettled) == sum(map(len, self.kept))

    def bring(self, envelope: Envelope) -> None:
        consumer = self.consumer
        if envelope.seq <= consumer.seen[envelope.priority]:
            self.settle([([envelope], 0)])
        else:
            consumer.seen[envelope.priority] = envelope.seq
            consumer.queue[envelope.priority].append(envelope)

    def send(self, lane: int, count: int) -> None:
        for _ in range(count):
            envelope = Envelope(None, lane, seq=self.next)
            self.next += 1
            self.sent[lane].append(envelope.seq)
            self.kept[lane].append(envelope.seq)
            self.unsettled.sent([envelope])
            self.bring(envelope)

    def handle(self, lane: int, count: int) -> None:
        consumer = self.consumer
        taken = [*consumer.held[lane], *consumer.take(lane, count)]
        consumer.held[lane] = []
        for envelope in taken:
            consumer.state[lane].append(envelope.seq)
            self.log[lane].append(envelope.seq)
        consumer.settlement.finished(taken)
        self.settle(consumer.settlement.settle())

    def hold(self, lane: int, count: int) -> None:
        self.consumer.held[lane] += self.consumer.take(lane, count)

    def late(self, lane: int, count: int) -> None:
        """The last ones taken are done first, and were too late to have an effect."""
        taken = self.consumer.take(lane, count)
        for envelope in taken:  # the model counts them as if they had one: no message may be missing
            self.log[lane].append(envelope.seq)
            if envelope.seq in self.sent[lane]:  # else it was late in an earlier life, too
                self.sent[lane].remove(envelope.seq)
        self.consumer.settlement.finished(taken, len(taken))
        self.settle(self.consumer.settlement.settle())

    def give_back(self, lane: int) -> None:
        held, self.consumer.held[lane] = self.consumer.held[lane], []
        self.consumer.settlement.returned(held)
        self.consumer.queue[lane].extendleft(reversed(held))

    def mark(self) -> None:
        self.number += 1
        known = self.consumer.settlement.mark(self.number)
        assert not self.consumer.settlement.is_ahead
        self.consumer.marked = copy_of(self.consumer.state)
        self.taken.append((self.number, self.consumer.marked, known))

    def make_safe(self) -> None:
        if self.taken:
            number, state, known = self.taken.pop()
            self.taken.clear()
            self.safe = (state, known)
            self.settle(self.consumer.settlement.is_safe(number))

    def fail(self) -> None:
        """The operator fails; another one goes on from the last snapshot, in the same process."""
        for lane in range(LANES):
            self.give_back(lane)
        self.consumer.state = copy_of(self.consumer.marked)
        for lane, again in enumerate(self.consumer.settlement.rewind()):
            self.consumer.queue[lane].extendleft(reversed(again))

    def die(self) -> None:
        """The process dies, and with it the snapshots that were not safe."""
        self.taken.clear()
        self.consumer = self._successor()
        for lane in self.unsettled.take_all():
            assert [envelope.seq for envelope in lane] == sorted(envelope.seq for envelope in lane)
            self.unsettled.sent(lane)
            for envelope in lane:
                self.bring(envelope)

    def end(self) -> None:
        for lane in range(LANES):
            self.handle(lane, self.next)
        if self.waits:
            self.mark()
            self.make_safe()
        assert len(self.unsettled) == 0


def play(model: Model, steps: Sequence[tuple[str, int, int]]) -> None:
    for what, lane, count in steps:
        match what:
            case "send" | "handle" | "hold":
                getattr(model, what)(lane, count)
            case "late":
                model.late(lane, count)
            case "return":
                model.give_back(lane)
            case "die":
                model.die()
            case _ if model.waits:
                {"mark": model.mark, "safe": model.make_safe, "fail": model.fail}[what]()
            case _:
                pass
    model.end()


@given(STEPS)
def test_whatever_dies_every_message_is_handled_at_least_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    model = Model(waits=False)
    play(model, steps)
    for sent, log in zip(model.sent, model.log, strict=True):
        assert set(sent) <= set(log)
        firsts = list(dict.fromkeys(seq for seq in log if seq in set(sent)))
        assert firsts == sent, "what is handled for the first time is in order"


@given(STEPS)
def test_whatever_dies_or_fails_the_state_has_every_message_once_and_in_order(
    steps: list[tuple[str, int, int]],
) -> None:
    model = Model(waits=True)
    play(model, steps)
    for state, sent in zip(model.consumer.state, model.sent, strict=True):
        assert state == sorted(set(state))
        assert [seq for seq in state if seq in set(sent)] == sent


def test_one_that_is_done_early_waits_for_those_before_it() -> None:
    settlement = Settlement(waits=False)
    envelopes = [Envelope(None, 2, seq=n) for n in range(4)]
    settlement.lent(envelopes)
    settlement.finished(envelopes[2:3], 1)
    assert settlement.settle() == []
    settlement.finished(envelopes[:2])
    assert settlement.settle() == [(envelopes[:3], 1)]
    settlement.finished(envelopes[3:])
    assert settlement.settle() == [(envelopes[3:], 0)]


def test_a_consumer_that_closes_settles_what_is_done_although_no_snapshot_knows_it() -> None:
    settlement = Settlement(waits=True)
    envelopes = [Envelope(None, 0, seq=n) for n in range(3)]
    settlement.lent(envelopes)
    settlement.finished(envelopes[:1])
    settlement.finished(envelopes[2:])
    assert settlement.settle() == []
    assert settlement.close() == [([envelopes[0], envelopes[2]], 0)]
