"""Liveness, by example: a beat of 1 s and a rest of 10 s."""

from __future__ import annotations

import pytest

from flowbridge.limits import SUSPECT_BEATS
from flowbridge.machines.liveness import Liveness


def at_work(now: float) -> Liveness:
    """One whose next look is a second after `now`."""
    found = Liveness(1.0, 10.0)
    found.begin(now)
    return found


def at_rest(heard_at: float) -> Liveness:
    """One that looks next ten seconds after the peer was heard."""
    found = at_work(heard_at - 0.5)
    assert found.look(heard_at + 0.5)
    assert found.rest(heard_at)
    return found


def test_at_work_it_looks_in_every_beat_and_silence_counts_from_when_the_peer_was_heard() -> None:
    found = at_work(100.0)
    for now in (101.0, 102.0, 103.0, 104.0):
        assert found.due == now
        assert found.look(now)
        assert found.is_silent(now, 100.2) == (now - 100.2 > SUSPECT_BEATS)
    assert found.due == 105.0


def test_at_rest_it_looks_when_the_peer_was_not_heard_for_so_long_and_counts_silence_from_then() -> None:
    found = at_rest(100.0)
    assert found.due == 110.0
    assert found.look(110.0)
    assert not found.rest(100.0)
    assert not found.is_silent(113.5, 100.0)
    assert found.is_silent(113.6, 100.0)
    assert found.due == 111.0


def test_who_is_heard_during_a_rest_or_answers_after_it_is_let_be_again() -> None:
    found = at_rest(100.0)
    assert found.look(110.0)
    assert found.rest(107.0)
    assert found.due == 117.0
    assert found.look(117.0)
    assert not found.rest(107.0)
    assert found.look(118.0)
    assert found.rest(117.1)
    assert found.due == pytest.approx(127.1)


def test_one_that_is_woken_works_at_once_and_does_not_hold_the_rest_against_the_peer() -> None:
    found = at_rest(100.0)
    assert found.wake(109.0)
    assert not found.wake(109.0)
    assert found.due == 110.0
    assert not found.is_silent(112.5, 100.0)
    assert found.is_silent(112.6, 100.0)
    assert not found.rest(100.0), "it was woken to find out"
    assert found.rest(109.2)


def test_one_at_work_is_not_woken() -> None:
    found = at_work(100.0)
    assert not found.wake(100.5)
    assert found.due == 101.0


def test_a_look_that_is_late_by_more_than_a_beat_says_so_and_counts_no_silence_of_a_rest() -> None:
    found = at_work(100.0)
    assert not found.look(102.1)
    found = at_rest(100.0)
    assert not found.look(118.0)
    assert not found.is_silent(119.0, 100.0)
    assert found.look(119.0)


def test_a_rest_that_is_no_longer_than_a_beat_is_none() -> None:
    found = Liveness(1.0, 0.5)
    found.begin(100.0)
    assert found.look(101.0)
    assert not found.rest(101.0)
    assert found.due == 102.0
