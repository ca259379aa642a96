"""Messages that overtake each other, come twice or never: what is handed on, and that each is settled once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import SINGLES_WINDOW
from flowbridge.machines.singles import SinglesIn, SinglesOut

FATES = st.lists(st.sampled_from(["comes", "comes twice", "is gone", "comes and is gone"]), max_size=60)


@given(fates=FATES, is_newest=st.booleans(), data=st.data())
def test_what_is_handed_on_is_in_order_and_each_number_is_settled_once(
    fates: list[str], is_newest: bool, data: st.DataObject
) -> None:
    out: SinglesOut[int] = SinglesOut()
    singles: SinglesIn[int] = SinglesIn(is_newest=is_newest)
    on_the_way: list[tuple[int, bool]] = []
    came: list[int] = []
    gone: list[int] = []
    stale: list[int] = []
    handed_on: list[int] = []
    waiting = list(fates)
    while waiting or on_the_way:
        if waiting and (not on_the_way or data.draw(st.booleans())):
            fate = waiting.pop(0)
            number = out.add(out.next)
            on_the_way += [(number, True)] * (fate.count("comes") + fate.count("twice"))
            on_the_way += [(number, False)] * fate.count("gone")
            continue
        number, comes = on_the_way.pop(data.draw(st.integers(0, len(on_the_way) - 1)))
        if not singles.is_fresh(number):
            assert number in came + gone
            continue
        assert out.settled(number) == number
        (came if comes else gone).append(number)
        ready = singles.came(number, number) if comes else singles.gone(number)
        if ready is None:
            stale.append(number)
        handed_on += ready or ()
    assert sorted(came + gone) == list(range(len(fates)))
    assert handed_on == sorted(set(handed_on))
    assert sorted(handed_on + stale) == sorted(came)
    assert (singles.floor, singles.held, out.open) == (len(fates), 0, {})
    if is_newest:
        assert handed_on == [one for at, one in enumerate(came) if one == max(came[: at + 1])]
    else:
        assert not stale


def test_the_receiver_remembers_as_many_as_the_sender_may_use() -> None:
    out: SinglesOut[None] = SinglesOut()
    singles: SinglesIn[int] = SinglesIn(is_newest=True)
    while out.has_room:
        number = out.add(None)
        if number:
            assert singles.is_fresh(number)
            singles.came(number, number)
    assert out.next == SINGLES_WINDOW
    with pytest.raises(RemoteProtocolError, match="1024"):
        singles.is_fresh(SINGLES_WINDOW)
    assert singles.came(0, 0) is None
    assert singles.floor == SINGLES_WINDOW
    assert singles.is_fresh(SINGLES_WINDOW)


def test_what_was_never_sent_cannot_be_settled_nor_twice() -> None:
    out: SinglesOut[str] = SinglesOut()
    with pytest.raises(RemoteProtocolError, match=r"message 0 .* is not on its way"):
        out.settled(0)
    assert out.settled(out.add("x")) == "x"
    with pytest.raises(RemoteProtocolError, match=r"message 0 .* is not on its way"):
        out.settled(0)
