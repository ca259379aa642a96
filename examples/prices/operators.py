"""The three operators of the prices flow, each in another form: two classes and a function."""

from __future__ import annotations

import statistics
from typing import Any

from flowbridge import Envelope, OperatorContext, Outputs

PRICES = {"AAL": 12.5, "DAL": 48.25, "UAL": 71.0}


class Client:
    """Asks for one symbol per tick and sends on what it was told."""

    def __init__(self, symbols: list[str]) -> None:
        self._symbols = symbols
        self._context: OperatorContext

    def open(self, context: OperatorContext) -> None:
        self._context = context

    async def process(self, value: int, out: Outputs) -> None:
        """`value` is the number of the tick."""
        symbol = self._symbols[value % len(self._symbols)]
        tick = self._context.envelope
        assert tick is not None
        request = Envelope({"symbol": symbol, "tick": value}, deadline_ns=tick.deadline_ns)
        reply = await self._context.bus.request("price.get", request, timeout_ns=20_000_000)
        out.emit({"symbol": symbol, "tick": value, "price": reply.payload["price"]})


def quote(request: dict[str, Any]) -> dict[str, Any]:
    """Answers a request: what an operator returns for an input with `reply: true` is the reply."""
    return {"symbol": request["symbol"], "price": PRICES[request["symbol"]] + 0.01 * (request["tick"] % 10)}


class Tape:
    """Prints each quote, and the mean of each symbol at the end."""

    def __init__(self) -> None:
        self._prices: dict[str, list[float]] = {}

    def open(self, context: Any) -> None:
        self._stdout = context.stdout  # None: the process's own; never mix with a report on stdout

    def process(self, value: dict[str, Any]) -> None:
        self._prices.setdefault(value["symbol"], []).append(value["price"])
        print(f"tick {value['tick']:>3}  {value['symbol']}  {value['price']:.2f}", file=self._stdout)

    def finish(self) -> None:
        for symbol, prices in sorted(self._prices.items()):
            print(f"{symbol}: {len(prices)} quotes, mean {statistics.fmean(prices):.3f}", file=self._stdout)
