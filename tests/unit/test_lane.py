"""Whose turn it is, by example."""

from __future__ import annotations

from flowbridge.limits import STARVATION_TURNS_MAX
from flowbridge.machines.lane import LaneTurns, lanes_in


def test_a_mask_names_its_lanes_most_urgent_first() -> None:
    assert [lanes_in(mask) for mask in (0, 1, 8, 0b1010, 0b1111)] == [(), (0,), (3,), (1, 3), (0, 1, 2, 3)]


def test_the_most_urgent_lane_goes_first_until_another_was_passed_over_often_enough() -> None:
    turns = LaneTurns()
    order = [turns.choose(0b1001) for _ in range(2 * (STARVATION_TURNS_MAX + 1))]
    assert order == ([0] * STARVATION_TURNS_MAX + [3]) * 2


def test_of_several_starving_lanes_the_least_urgent_goes_first_and_all_get_their_turn() -> None:
    turns = LaneTurns()
    order = [turns.choose(0b1111) for _ in range(STARVATION_TURNS_MAX + 4)]
    assert order == [0] * STARVATION_TURNS_MAX + [3, 2, 1, 0]


def test_a_lane_that_is_served_when_alone_has_not_been_passed_over() -> None:
    turns = LaneTurns()
    for _ in range(STARVATION_TURNS_MAX):
        assert turns.choose(0b1001) == 0
        assert turns.choose(0b1000) == 3
    assert turns.choose(0b1001) == 0, "the urgent lane waits for one that was served all the time"


def test_a_lane_without_work_is_not_passed_over() -> None:
    turns = LaneTurns()
    for _ in range(STARVATION_TURNS_MAX - 1):
        turns.choose(0b0101)
    for _ in range(100):
        assert turns.choose(0b0001) == 0
    assert [turns.choose(0b0101), turns.choose(0b0101)] == [0, 2]
