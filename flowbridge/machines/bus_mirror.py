"""What a publisher in another process knows of who subscribed, and of their credit.

Rules.
1. Credit is an absolute number for each lane: so many messages may ever be spent on a subscription. What is spent and
   the limit only rise, so a limit that is told twice, or late, does no harm.
2. A publisher without credit for one subscription that waits, or for all members of a queue group that all wait, may
   not publish without waiting; then nothing is spent.
3. Of the members of a group that wait, the one with the most credit is charged. The owner of the table does the same
   with what it has told, and tells a new limit where that and the truth come apart.

The table may be old: others use up the same credit. What it lets through nevertheless waits at the owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbridge.errors import RemoteProtocolError
from flowbridge.limits import LANES, TOPICS_CACHED_MAX, TOPICS_REACH_MAX
from flowbridge.machines.topics import TopicTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbridge.machines.topics import TopicEntry


class Offer:
    """One subscription as others see it."""

    __slots__ = ("group", "limits", "number", "pattern", "spent", "waits")

    def __init__(self, number: int, pattern: str, group: str | None, waits: bool) -> None:
        self.number = number
        self.pattern = pattern
        self.group = group
        self.waits = waits  # a publisher waits while it has no credit
        self.limits = [0] * LANES
        self.spent = [0] * LANES

    def credit(self, lane: int) -> int:
        """How many more messages of a lane."""
        return self.limits[lane] - self.spent[lane]

    def __repr__(self) -> str:
        return f"<Offer {self.number} {self.pattern} {self.spent} of {self.limits}>"


class BusMirror:
    """The table of subscriptions of a bus elsewhere."""

    __slots__ = ("_entries", "_reach", "_reached", "_table", "offers")

    def __init__(self) -> None:
        self.offers: dict[int, Offer] = {}
        self._entries: dict[int, TopicEntry[Offer]] = {}
        self._table: TopicTable[Offer] = TopicTable(cached_max=0)  # what is reached is remembered instead
        self._reached: dict[str, tuple[tuple[Offer, ...], ...]] = {}
        self._reach = 0  # offers of all topics that are remembered

    def add(self, number: int, pattern: str, group: str | None, waits: bool) -> None:
        """Somebody subscribed. Raises: RemoteProtocolError for a number in use; LocalProtocolError."""
        if number in self.offers:
            raise RemoteProtocolError(f"subscription {number} is offered twice")
        offer = Offer(number, pattern, group, waits)
        self._entries[number] = self._table.add(pattern, offer)
        self.offers[number] = offer
        self._reached.clear()

    def remove(self, number: int) -> None:
        """Somebody left. Raises: RemoteProtocolError for an unknown number."""
        if self.offers.pop(number, None) is None:
            raise RemoteProtocolError(f"subscription {number} is retracted, but was not offered")
        self._table.remove(self._entries.pop(number))
        self._reached.clear()

    def limit(self, number: int, limits: Sequence[int]) -> None:
        """There is new credit. Raises: RemoteProtocolError for an unknown number."""
        offer = self.offers.get(number)
        if offer is None:
            raise RemoteProtocolError(f"subscription {number} has a limit, but was not offered")
        offer.limits[:] = limits

    def reach(self, topic: str) -> tuple[tuple[Offer, ...], ...]:
        """Who gets a message on a topic: one of each of these. Raises: LocalProtocolError for a bad topic."""
        found = self._reached.get(topic)
        if found is None:
            groups: dict[object, list[Offer]] = {}
            offers = self._table.match(topic)
            self._reach += len(offers)
            for offer in offers:
                groups.setdefault(offer if offer.group is None else offer.group, []).append(offer)
            if len(self._reached) >= TOPICS_CACHED_MAX or self._reach > TOPICS_REACH_MAX:
                self._reached.clear()
                self._reach = len(offers)
            found = self._reached[topic] = tuple(tuple(members) for members in groups.values())
        return found

    def lacking(self, topic: str, lane: int) -> Offer | None:
        """Somebody who would make a publisher wait (rule 2)."""
        for members in self.reach(topic):
            if all(offer.waits and offer.credit(lane) <= 0 for offer in members):
                return members[0]
        return None

    def spend(self, topic: str, lane: int) -> list[Offer]:
        """Charge one message to each it reaches (rule 3); returns those that were charged."""
        charged: list[Offer] = []
        for members in self.reach(topic):
            patient = members[0] if len(members) == 1 else max(members, key=lambda offer: offer.credit(lane))
            if patient.waits:
                patient.spent[lane] += 1
                charged.append(patient)
        return charged

    def __repr__(self) -> str:
        return f"<BusMirror {len(self.offers)} subscriptions>"
