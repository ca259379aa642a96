"""A program that runs a flow inside itself: its own functions are operators, and it watches the books while it runs.

python examples/embed/embed.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import flowbridge

FLOW = Path(__file__).with_name("flow.yaml")


def readings() -> Iterator[dict[str, float]]:
    """A source: any generator of values."""
    for number in range(20_000):
        yield {"sensor": number % 7, "celsius": 15 + (number * 37 % 100) / 10 + number % 7}


def to_fahrenheit(value: dict[str, float]) -> dict[str, float]:
    """An operator: any function of one value."""
    return {**value, "fahrenheit": value["celsius"] * 9 / 5 + 32}


class Hottest:
    """A sink that the program reads when the flow is done."""

    def __init__(self) -> None:
        self.by_sensor: dict[float, float] = {}

    def process(self, value: dict[str, float]) -> None:
        sensor = value["sensor"]
        self.by_sensor[sensor] = max(value["fahrenheit"], self.by_sensor.get(sensor, -459.67))


async def main() -> None:
    plan = flowbridge.load(FLOW)
    hottest = Hottest()
    operators = {"readings": readings, "to_fahrenheit": to_fahrenheit, "hottest": hottest}
    async with flowbridge.Host(operators=operators) as host:
        flow = await host.start(plan)
        report = await flow.wait()
    print(f"{report.flow}: {report.status} in {report.duration_s:.2f} s")
    for name, edge in report.edges.items():
        books = edge.books
        assert books.balances, f"{name}: something was lost"
        print(f"  {name}: {books.sent} sent, {books.delivered} delivered, {books.expired} expired")
    for sensor, fahrenheit in sorted(hottest.by_sensor.items()):
        print(f"  sensor {sensor}: {fahrenheit:.1f} F at most")


if __name__ == "__main__":
    asyncio.run(main())
