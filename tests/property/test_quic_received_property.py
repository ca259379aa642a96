"""Which packet numbers came: our bits and aioquic's set say the same of any sequence."""

from __future__ import annotations

from aioquic.quic.recovery import QuicPacketNumberWindow
from hypothesis import given
from hypothesis import strategies as st

from flowbridge.transports.quic.aio.received import NUMBERS, ReceivedNumbers

LARGEST = 2**62 - 1


@given(st.lists(st.integers(0, 3 * NUMBERS) | st.integers(0, LARGEST), max_size=300))
def test_ours_and_the_one_it_replaces_say_the_same(numbers: list[int]) -> None:
    ours, theirs = ReceivedNumbers(), QuicPacketNumberWindow()
    for number in numbers:
        for asked in (number - NUMBERS, number - 1, number, number + 1):
            if asked >= 0:
                assert (asked in ours) == (asked in theirs)
        ours.add(number)
        theirs.add(number)
