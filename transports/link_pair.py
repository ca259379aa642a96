"""A route over a link that begins and ends in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbridge.plan import Route
    from flowbridge.transports.link_port import LinkSink
    from flowbridge.transports.link_source import LinkSource


class LinkDataPort:
    """Both ends of a route whose link has both ends in this process; see `contracts.DataPort`."""

    __slots__ = ("route", "sink", "source")

    def __init__(self, route: Route, sink: LinkSink, source: LinkSource) -> None:
        self.route = route
        self.sink = sink
        self.source = source

    def __repr__(self) -> str:
        return f"<LinkDataPort {self.route.id}>"
