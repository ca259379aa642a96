"""Topics and patterns: what is well formed, what matches what, and who subscribed to it.

Rules.
1. A topic is words joined by ``.``. A word is printable, without space, ``*`` and ``>``, in Unicode form NFC.
2. In a pattern the word ``*`` stands for exactly one word, and ``>`` as the last word for one or more.
3. A match lists values in the order they were added; a value added under several patterns stands there once.

The words are those of NATS (https://docs.nats.io/nats-concepts/subjects); the trie is the usual one.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import (
    SUBSCRIPTIONS_MAX,
    TOPIC_CHARACTERS_MAX,
    TOPIC_TOKENS_MAX,
    TOPICS_CACHED_MAX,
    TOPICS_REACH_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

ONE: Final = "*"
REST: Final = ">"


def problem_with_topic(topic: str) -> str:
    """What is wrong with a topic, as the end of a sentence; empty when nothing is."""
    return _problem_with_text(topic) or _first_problem(map(_problem_with_word, topic.split(".")))


def problem_with_pattern(pattern: str) -> str:
    """What is wrong with a pattern, as the end of a sentence; empty when nothing is."""
    problem = _problem_with_text(pattern)
    if problem:
        return problem
    words = pattern.split(".")
    if REST in words[:-1]:
        return "has '>' before its last word"
    return _first_problem(_problem_with_word(word) for word in words if word not in (ONE, REST))


def check_topic(topic: str) -> None:
    """Raises: LocalProtocolError when this is not a topic."""
    problem = problem_with_topic(topic)
    if problem:
        raise LocalProtocolError(f"topic {_shown(topic)} {problem}")


def check_pattern(pattern: str) -> None:
    """Raises: LocalProtocolError when this is not a pattern."""
    problem = problem_with_pattern(pattern)
    if problem:
        raise LocalProtocolError(f"pattern {_shown(pattern)} {problem}")


def covers(general: str, special: str) -> bool:
    """Whether every topic that the pattern `special` matches is matched by the pattern `general` too.

    A topic is the pattern of itself, so this also says whether a pattern matches a topic. Both are well formed.
    """
    wide, narrow = general.split("."), special.split(".")
    if wide[-1] == REST:
        wide.pop()
        if len(narrow) <= len(wide):
            return False
    elif len(narrow) != len(wide):
        return False
    return all(w == n or (w == ONE and n != REST) for w, n in zip(wide, narrow, strict=False))


def _problem_with_text(text: str) -> str:
    if not text:
        return "is empty"
    if len(text) > TOPIC_CHARACTERS_MAX:
        return f"is longer than {TOPIC_CHARACTERS_MAX} characters: {len(text)}"
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        return "is not in Unicode form NFC"
    words = text.count(".") + 1
    return f"has more than {TOPIC_TOKENS_MAX} words: {words}" if words > TOPIC_TOKENS_MAX else ""


def _problem_with_word(word: str) -> str:
    if not word:
        return "has an empty word"
    if ONE in word or REST in word:
        return f"has a wildcard in the word {word!r}" if len(word) > 1 else f"has the wildcard {word!r}"
    if " " in word or not word.isprintable():
        return f"has white space or an unprintable character in the word {word!r}"
    return ""


def _first_problem(problems: Iterable[str]) -> str:
    return next(filter(None, problems), "")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= TOPIC_CHARACTERS_MAX else repr(text[:32] + "...")


class TopicEntry(Generic[T]):
    """One value under one pattern; also the handle that removes it."""

    __slots__ = ("order", "pattern", "value")

    def __init__(self, pattern: str, value: T, order: int) -> None:
        self.pattern: Final = pattern
        self.value: Final = value
        self.order: Final = order

    def __repr__(self) -> str:
        return f"<TopicEntry {self.pattern} #{self.order}>"


class _Node(Generic[T]):
    """One word of the trie: the entries that end here, and those that end with ``>`` after it."""

    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.here: dict[int, TopicEntry[T]] = {}
        self.rest: dict[int, TopicEntry[T]] = {}

    @property
    def empty(self) -> bool:
        return not (self.children or self.here or self.rest)


class TopicTable(Generic[T]):
    """Values by pattern. A topic asked for before costs one dictionary look-up until the next change.

    `cached_max` bounds how many topics are remembered, and `TOPICS_REACH_MAX` how many values for all of them; beyond
    that all are forgotten and found again in the trie. With 0 none is, for a caller that remembers what it makes of
    the answer.
    """

    __slots__ = ("_cache", "_cached", "_cached_max", "_count", "_order", "_root")

    def __init__(self, cached_max: int = TOPICS_CACHED_MAX) -> None:
        self._root: _Node[T] = _Node()
        self._cache: dict[str, tuple[T, ...]] = {}
        self._cached_max = cached_max
        self._cached = 0  # values of all topics that are remembered
        self._count = 0
        self._order = 0

    def __len__(self) -> int:
        return self._count

    def add(self, pattern: str, value: T) -> TopicEntry[T]:
        """Put a value under a pattern. Raises: LocalProtocolError for a bad pattern or when the table is full."""
        check_pattern(pattern)
        if self._count >= SUBSCRIPTIONS_MAX:
            raise LocalProtocolError(f"pattern {pattern!r} is one more than {SUBSCRIPTIONS_MAX} subscriptions")
        words = pattern.split(".")
        rest = words[-1] == REST
        node = self._root
        for word in words[:-1] if rest else words:
            child = node.children.get(word)
            if child is None:
                child = node.children[word] = _Node()
            node = child
        entry = TopicEntry(pattern, value, self._order)
        (node.rest if rest else node.here)[entry.order] = entry
        self._order += 1
        self._count += 1
        self._cache.clear()
        self._cached = 0
        return entry

    def remove(self, entry: TopicEntry[T]) -> None:
        """Take back what `add` gave. Idempotent."""
        words = entry.pattern.split(".")
        rest = words[-1] == REST
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for word in words[:-1] if rest else words:
            path.append((node, word))
            child = node.children.get(word)
            if child is None:
                return
            node = child
        entries = node.rest if rest else node.here
        if entries.get(entry.order) is not entry:
            return
        del entries[entry.order]
        for parent, word in reversed(path):
            if not parent.children[word].empty:
                break
            del parent.children[word]
        self._count -= 1
        self._cache.clear()
        self._cached = 0

    def match(self, topic: str) -> tuple[T, ...]:
        """The values whose patterns match, in the order they were added. Raises: LocalProtocolError for a bad topic."""
        found = self._cache.get(topic)
        if found is None:
            check_topic(topic)
            found = self._walk(topic.split("."))
            if self._cached_max:
                self._cached += len(found)
                if len(self._cache) >= self._cached_max or self._cached > TOPICS_REACH_MAX:
                    self._cache.clear()
                    self._cached = len(found)
                self._cache[topic] = found
        return found

    def _walk(self, words: list[str]) -> tuple[T, ...]:
        level = [self._root]
        entries: list[TopicEntry[T]] = []
        for word in words:
            deeper: list[_Node[T]] = []
            for node in level:
                entries.extend(node.rest.values())
                child = node.children.get(word)
                if child is not None:
                    deeper.append(child)
                child = node.children.get(ONE)
                if child is not None:
                    deeper.append(child)
            level = deeper
        for node in level:
            entries.extend(node.here.values())
        entries.sort(key=_order_of)
        once = {id(entry.value): entry.value for entry in entries}
        return tuple(once.values())

    def __repr__(self) -> str:
        return f"<TopicTable {self._count} patterns, {len(self._cache)} topics known>"


def _order_of(entry: TopicEntry[T]) -> int:
    return entry.order
