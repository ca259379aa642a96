"""What became of requests that have an id, so that one that comes again is not done twice.

Rules.
1. A request is known by who made it, its topic and its id. The same one again gets the outcome that it had; while that
   is not known it is a conflict.
2. It is known from when it is first made, for `REQUEST_KEPT_NS` or twice as long as it was to take, whichever is
   longer, and again as long from when it has an outcome. Then it is a new one.
3. Where a request was not done it is forgotten, and may be done when it comes again.
4. At most so many requests and so many bytes of outcomes are kept of each requester. What was not asked for the longest
   goes first, with an outcome or without, and nobody pushes out what others asked.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from flowbridge.limits import REQUEST_KEPT_NS, REQUESTS_KEPT_BYTES_MAX, REQUESTS_KEPT_MAX

T = TypeVar("T")
Name = tuple[str, "str | int"]
"""The topic of a request, and its id."""


class Known(Generic[T]):
    """A request that is known; `outcome` is None until there is one."""

    __slots__ = ("keep_ns", "name", "outcome", "size_bytes", "until_ns", "who")

    def __init__(self, who: str, name: Name, keep_ns: int, now_ns: int) -> None:
        self.who: Final = who
        self.name: Final = name
        self.keep_ns: Final = keep_ns
        self.until_ns = now_ns + keep_ns
        self.outcome: T | None = None
        self.size_bytes = 0


class _Requester(Generic[T]):
    """What one requester asked, from what was not asked for the longest on."""

    __slots__ = ("bytes", "known")

    def __init__(self) -> None:
        self.known: OrderedDict[Name, Known[T]] = OrderedDict()
        self.bytes = 0


class RequestMemory(Generic[T]):
    """The requests with an id that a bus was asked; `token` is under what an outcome comes, and is never used twice."""

    def __init__(self, entries_max: int = REQUESTS_KEPT_MAX, bytes_max: int = REQUESTS_KEPT_BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._requesters: dict[str, _Requester[T]] = {}
        self._tokens: dict[str, Known[T]] = {}  # of requests without an outcome
        self._token_of: dict[int, str] = {}  # by identity of those

    def find(self, who: str, name: Name, now_ns: int) -> Known[T] | None:
        """The request if it is known, which then counts as asked for just now."""
        requester = self._requesters.get(who)
        known = None if requester is None else requester.known.get(name)
        if requester is None or known is None:
            return None
        if known.until_ns <= now_ns:
            self._drop(known)
            return None
        requester.known.move_to_end(name)
        return known

    def begin(self, who: str, name: Name, token: str, timeout_ns: int, now_ns: int) -> None:
        """A request that is not known is made; it is to take `timeout_ns` at most."""
        assert self.find(who, name, now_ns) is None, f"{who}: request {name} is known"
        requester = self._requesters.setdefault(who, _Requester())
        known = Known[T](who, name, max(REQUEST_KEPT_NS, 2 * timeout_ns), now_ns)
        requester.known[name] = known
        self._tokens[token] = known
        self._token_of[id(known)] = token
        self._trim(requester, now_ns)

    def awaits(self, token: str) -> bool:
        """Whether a request is known by this token, and has no outcome."""
        return token in self._tokens

    def settle(self, token: str, outcome: T, size_bytes: int, now_ns: int) -> None:
        """There is an outcome; the first one counts, and that of a request that is not known is of no use."""
        known = self._tokens.pop(token, None)
        if known is None:
            return
        del self._token_of[id(known)]
        known.outcome = outcome
        known.size_bytes = size_bytes
        known.until_ns = now_ns + known.keep_ns
        requester = self._requesters[known.who]
        requester.bytes += size_bytes
        self._trim(requester, now_ns)

    def forget(self, token: str) -> None:
        """The request was not done (rule 3). Nothing happens when it has an outcome, or is not known."""
        known = self._tokens.get(token)
        if known is not None:
            self._drop(known)

    def _trim(self, requester: _Requester[T], now_ns: int) -> None:
        while requester.known:
            oldest = next(iter(requester.known.values()))
            is_full = len(requester.known) > self._entries_max or requester.bytes > self._bytes_max
            if not is_full and oldest.until_ns > now_ns:
                return
            self._drop(oldest)

    def _drop(self, known: Known[T]) -> None:
        token = self._token_of.pop(id(known), None)
        if token is not None:
            del self._tokens[token]
        requester = self._requesters[known.who]
        del requester.known[known.name]
        requester.bytes -= known.size_bytes
        if not requester.known:
            del self._requesters[known.who]

    def __len__(self) -> int:
        return sum([len(requester.known) for requester in self._requesters.values()])

    def kept_bytes(self, who: str) -> int:
        """How large the outcomes are that are kept of one requester."""
        requester = self._requesters.get(who)
        return 0 if requester is None else requester.bytes

    def __repr__(self) -> str:
        return f"<RequestMemory {len(self)} requests, {len(self._tokens)} without outcome>"
