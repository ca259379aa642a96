"""Admission and the rank of a stream, by hand; tests/property/test_admission_property.py has the laws."""

from __future__ import annotations

import pytest

from flowbridge.machines.admission import Pressing, admit

MS = 10**6
WINDOW = 20_000
SRTT = 20 * MS  # with the window: 1 MB a second


def test_what_can_be_sent_in_four_fifths_of_its_time_is_admitted_and_what_cannot_is_not() -> None:
    assert admit(40_000, 250 * MS, 160_000, WINDOW, SRTT)
    assert not admit(40_001, 250 * MS, 160_000, WINDOW, SRTT)
    assert not admit(40_000, 250 * MS - 1, 160_000, WINDOW, SRTT)


@pytest.mark.parametrize("remaining_ns", [0, -1])
def test_what_is_late_is_never_admitted(remaining_ns: int) -> None:
    assert not admit(1, remaining_ns, 0, WINDOW, SRTT)
    assert not admit(1, remaining_ns, 0, 0, 0)


def test_behind_nothing_a_message_is_tried_however_slow_the_path_seems() -> None:
    assert admit(10**9, 1, 0, WINDOW, SRTT)
    assert not admit(10**9, 1, 1, WINDOW, SRTT)


def test_while_nothing_is_known_of_the_path_everything_is_admitted() -> None:
    assert admit(10**9, MS, 10**9, WINDOW, 0)
    assert admit(10**9, MS, 10**9, 0, SRTT)


def test_a_stream_ranks_with_the_most_pressing_message_that_waits_on_it() -> None:
    stream = Pressing()
    assert stream.rank is None
    stream.wrote(100, (2, 900))
    stream.wrote(200, (2, 500))
    assert stream.rank == (2, 500)
    stream.wrote(300, (2, 700))
    stream.wrote(400, (1, 800))
    assert stream.rank == (1, 800)
    stream.left(399)
    assert stream.rank == (1, 800)
    stream.left(400)
    assert stream.rank is None


def test_a_message_lifts_the_stream_until_its_last_byte_has_left() -> None:
    stream = Pressing()
    stream.wrote(100, (1, 500))
    stream.wrote(200, (3, 900))
    stream.left(99)
    assert stream.rank == (1, 500)
    stream.left(100)
    assert stream.rank == (3, 900)


def test_messages_that_are_all_the_same_take_one_place() -> None:
    stream = Pressing()
    for number in range(1_000):
        stream.wrote(number, (2, 2**63 - 1))
    assert len(stream) == 1
    assert repr(stream) == f"<Pressing (2, {2**63 - 1}), 1 kept>"
