"""The clogged twins: they give way, keep order, and lose nothing that is cancelled."""

from __future__ import annotations

import asyncio

import pytest
from reference_port import ReferencePort

from flowbridge.errors import BusyError
from flowbridge.plan import Qos
from flowbridge.testing.clock import ManualClock
from flowbridge.testing.conformance.message import message, numbers, receive_one, take_all
from flowbridge.testing.faults import Clog, CloggedPort
from flowbridge.testing.quiet import quiet


def clogged(seed: int) -> tuple[ReferencePort, CloggedPort]:
    port = ReferencePort(Qos(), ManualClock())
    return port, CloggedPort(port, seed)


def test_a_send_gives_way_before_anything_is_sent() -> None:
    async def main() -> None:
        for seed in range(20):
            port, twin = clogged(seed)
            sender = asyncio.create_task(twin.sink.send(message(1)))
            await asyncio.sleep(0)
            assert port.books.sent == 0
            await sender
            assert port.books.sent == 1

    asyncio.run(main())


def test_a_receive_that_is_cancelled_with_a_message_in_its_hands_gives_it_back() -> None:
    async def main() -> None:
        lent = 0
        for seed in range(10):
            for turns in range(10):
                port, twin = clogged(seed)
                port.send_nowait(message(1))
                receiver = asyncio.create_task(receive_one(twin.source))
                for _ in range(turns):
                    await asyncio.sleep(0)
                in_its_hands = bool(port.lent)
                receiver.cancel()
                await asyncio.wait([receiver])
                if receiver.cancelled():
                    lent += in_its_hands
                    assert numbers(port.queued) == [1]
        assert lent > 10, "the dangerous moment was never met"

    asyncio.run(main())


def test_senders_come_out_in_the_order_they_went_in() -> None:
    async def main() -> None:
        for seed in range(20):
            port, twin = clogged(seed)
            senders = [asyncio.create_task(twin.sink.send(message(number))) for number in range(10)]
            await asyncio.gather(*senders)
            assert await take_all(port) == list(range(10))

    asyncio.run(main())


def test_a_cancelled_sender_does_not_disturb_the_order_of_the_others() -> None:
    async def main() -> None:
        for seed in range(10):
            for turns in range(6):
                port, twin = clogged(seed)
                senders = [asyncio.create_task(twin.sink.send(message(number))) for number in range(6)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                senders[2].cancel()
                senders[3].cancel()
                await quiet()
                sent = [number for number, sender in enumerate(senders) if not sender.cancelled()]
                assert await take_all(port) == sent
                assert {0, 1, 4, 5} <= set(sent)

    asyncio.run(main())


def test_a_clog_forgets_who_came_out() -> None:
    async def main() -> None:
        clog = Clog(1)
        for _ in range(10):
            leave = await clog.in_order("key")
            leave()
            leave()
        assert len(clog) == 0

    asyncio.run(main())


def test_the_twin_refuses_a_second_receiver_wherever_the_first_is() -> None:
    async def main() -> None:
        for turns in range(1, 8):
            _, twin = clogged(3)
            first = asyncio.create_task(receive_one(twin.source))
            for _ in range(turns):
                await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await twin.source.receive()
            await twin.sink.send(message(1))
            assert await first == 1

    asyncio.run(main())
