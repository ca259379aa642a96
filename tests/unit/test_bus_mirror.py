"""What a publisher elsewhere knows of credit."""

from __future__ import annotations

import pytest

from flowbridge.errors import LocalProtocolError, RemoteProtocolError
from flowbridge.machines.bus_mirror import BusMirror

LANE = 2


def mirror(*offers: tuple[str, str | None, bool, int]) -> BusMirror:
    one = BusMirror()
    for number, (pattern, group, waits, credit) in enumerate(offers):
        one.add(number, pattern, group, waits)
        one.limit(number, [credit] * 4)
    return one


def test_each_subscription_and_each_group_is_reached_once() -> None:
    one = mirror(("t", None, True, 1), ("t", "g", True, 1), ("t.>", None, True, 1), (">", "g", True, 1))
    assert [[offer.number for offer in members] for members in one.reach("t")] == [[0], [1, 3]]


def test_credit_is_spent_in_its_lane_until_there_is_none() -> None:
    one = mirror(("t", None, True, 2))
    for _ in range(2):
        assert one.lacking("t", LANE) is None
        one.spend("t", LANE)
    lacking = one.lacking("t", LANE)
    assert lacking is not None
    assert lacking.number == 0
    assert one.lacking("t", LANE + 1) is None
    one.limit(0, [3] * 4)
    assert one.lacking("t", LANE) is None


def test_a_limit_that_is_told_twice_does_no_harm() -> None:
    one = mirror(("t", None, True, 1))
    one.spend("t", LANE)
    one.limit(0, [1] * 4)
    assert one.lacking("t", LANE) is not None


def test_a_subscription_that_never_makes_wait_lacks_nothing() -> None:
    one = mirror(("t", None, False, 0))
    assert one.lacking("t", LANE) is None
    assert one.spend("t", LANE) == []


def test_a_group_lacks_credit_when_all_its_members_do() -> None:
    one = mirror(("t", "g", True, 1), ("t", "g", True, 2))
    charged = [one.spend("t", LANE)[0].number for _ in range(3)]
    assert sorted(charged) == [0, 1, 1]
    assert one.lacking("t", LANE) is not None


def test_a_group_with_a_member_that_never_makes_wait_lacks_nothing() -> None:
    assert mirror(("t", "g", True, 0), ("t", "g", False, 0)).lacking("t", LANE) is None


def test_who_left_is_reached_no_more() -> None:
    one = mirror(("t", None, True, 0), ("t", None, True, 1))
    one.reach("t")
    one.remove(0)
    assert one.lacking("t", LANE) is None
    assert len(one.reach("t")) == 1


def test_an_owner_that_contradicts_itself_is_refused() -> None:
    one = mirror(("t", None, True, 0))
    with pytest.raises(RemoteProtocolError, match="twice"):
        one.add(0, "t", None, True)
    with pytest.raises(RemoteProtocolError, match="not offered"):
        one.remove(7)
    with pytest.raises(RemoteProtocolError, match="not offered"):
        one.limit(7, [0] * 4)
    with pytest.raises(LocalProtocolError):
        one.add(1, "a..b", None, True)
