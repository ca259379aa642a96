"""Liveness, by example: a beat of 1 s and a rest of 10 s."""

from __future__ import annotations

from flowbridge.limits import SUSPECT_BEATS
from flowbridge.machines.liveness import Liveness

BEAT_S = 1.0


def at_work(now: float) -> Liveness:
    """One whose next look is a second after `now`."""
    found = Liveness(BEAT_S, 10.0)
    found.hurry(now)
    return found


def at_rest(heard_at: float) -> Liveness:
    """One that looks next ten seconds after the peer was heard."""
    found = at_work(heard_at - 0.5)
    assert found.look(heard_at + 0.5) <= BEAT_S
    assert found.rest(heard_at + 0.5, heard_at)
    return found


def test_at_work_it_looks_in_every_beat_and_silence_counts_from_when_the_peer_was_heard() -> None:
    found = at_work(100.0)
    for now in (101.0, 102.0, 103.0, 104.0):
        assert found.due == now
        assert found.look(now) <= BEAT_S
        assert found.is_silent(now, 100.2) == (now - 100.2 > SUSPECT_BEATS)
    assert found.due == 105.0


def test_at_rest_it_asks_when_the_peer_was_not_heard_for_so_long_and_gives_it_as_long_to_answer() -> None:
    found = at_rest(100.0)
    assert found.due == 110.0
    assert found.look(110.0) <= BEAT_S
    assert not found.is_silent(110.0, 100.0)
    assert not found.rest(110.0, 100.0)
    assert found.due == 120.0
    assert found.look(120.0) <= BEAT_S
    assert found.is_silent(120.0, 100.0)
    found.hurry(120.0)
    assert found.due == 121.0
    assert found.look(121.0) <= BEAT_S
    assert found.is_silent(121.0, 100.0), "being asked more often does not make it heard"
    assert not found.is_silent(121.0, 120.9)


def test_who_is_heard_during_a_rest_is_let_be_and_who_answers_is_asked_again_after_one() -> None:
    found = at_rest(100.0)
    assert found.look(110.0) <= BEAT_S
    assert found.rest(110.0, 107.0)
    assert found.due == 117.0
    assert found.look(117.0) <= BEAT_S
    assert not found.rest(117.0, 107.0)
    assert found.look(127.0) <= BEAT_S
    assert not found.is_silent(127.0, 117.1)
    assert not found.rest(127.0, 117.1)
    assert found.due == 137.0


def test_one_that_is_woken_works_at_once_and_does_not_hold_the_rest_against_the_peer() -> None:
    found = at_rest(100.0)
    assert found.wake(109.0)
    assert not found.wake(109.0)
    assert found.due == 110.0
    assert not found.is_silent(112.5, 100.0)
    assert found.is_silent(112.6, 100.0)
    assert not found.rest(110.0, 100.0), "it was woken to find out"
    assert found.due == 110.0
    assert found.rest(110.0, 109.2)


def test_one_that_waits_for_an_answer_at_rest_is_woken_as_well() -> None:
    found = at_rest(100.0)
    assert found.look(110.0) <= BEAT_S
    assert not found.rest(110.0, 100.0)
    assert found.wake(111.0)
    assert found.due == 112.0


def test_one_at_work_is_not_woken() -> None:
    found = at_work(100.0)
    assert not found.wake(100.5)
    assert found.due == 101.0


def test_a_look_that_is_late_by_more_than_a_beat_says_so() -> None:
    found = at_work(100.0)
    assert found.look(102.1) > BEAT_S
    found = at_rest(100.0)
    assert found.look(111.0) <= BEAT_S
    found = at_rest(100.0)
    assert found.look(118.0) > BEAT_S
    assert found.due == 128.0


def test_a_rest_that_is_no_longer_than_a_beat_is_none() -> None:
    found = Liveness(1.0, 0.5)
    found.hurry(100.0)
    for now in (101.0, 102.0):
        assert found.look(now) <= BEAT_S
        assert not found.rest(now, now)
        assert found.due == now + 1.0
