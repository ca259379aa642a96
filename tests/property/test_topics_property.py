"""The table of topics against the simplest matcher that could be right."""

# pyright: reportPrivateUsage=false
# What must not be left behind is seen only from inside.
from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowbridge.errors import LocalProtocolError
from flowbridge.machines.topics import TopicEntry, TopicTable, check_pattern, check_topic, covers

WORDS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(st.lists(st.one_of(WORDS, st.just("*")), max_size=3), st.sampled_from(["a", "b", "*", ">"])).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)
ALL_TOPICS = [".".join(words) for count in range(1, 5) for words in itertools.product("abc", repeat=count)]


def naive(pattern: list[str], topic: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern or not topic:
        return not pattern and not topic
    if pattern == [">"]:
        return True
    return pattern[0] in ("*", topic[0]) and naive(pattern[1:], topic[1:])


def test_the_model_itself_knows_the_easy_cases() -> None:
    assert naive(["a", ">"], ["a", "b", "c"])
    assert not naive(["a", ">"], ["a"])
    assert not naive(["*"], ["a", "b"])


@given(st.lists(PATTERNS, max_size=12), TOPICS)
def test_a_table_matches_as_the_definition_does(patterns: list[str], topic: str) -> None:
    table: TopicTable[int] = TopicTable()
    for number, pattern in enumerate(patterns):
        table.add(pattern, number)
    expected = [n for n, pattern in enumerate(patterns) if naive(pattern.split("."), topic.split("."))]
    assert list(table.match(topic)) == expected
    assert list(table.match(topic)) == expected


@given(PATTERNS, PATTERNS)
def test_covering_is_matching_all_that_the_other_matches(general: str, special: str) -> None:
    matched = [t for t in ALL_TOPICS if naive(special.split("."), t.split("."))]
    every = all(naive(general.split("."), t.split(".")) for t in matched)
    if covers(general, special):
        assert every
    elif not set(special.split(".")) & {"*", ">"}:
        assert not every  # a single topic: covering is exactly matching


@given(PATTERNS, TOPICS)
def test_covering_a_topic_is_matching_it(pattern: str, topic: str) -> None:
    assert covers(pattern, topic) is naive(pattern.split("."), topic.split("."))


@given(st.text(max_size=300))
def test_any_text_is_a_topic_or_refused_and_a_topic_is_a_pattern(text: str) -> None:
    try:
        check_topic(text)
    except LocalProtocolError:
        return
    check_pattern(text)
    table: TopicTable[int] = TopicTable()
    table.add(text, 7)
    assert table.match(text) == (7,)


@given(st.text(alphabet="ab.*> ", max_size=8))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    words = text.split(".")
    good = all(w and (w in ("*", ">") or not set(w) & set("*> ")) for w in words) and ">" not in words[:-1]
    try:
        check_pattern(text)
    except LocalProtocolError:
        assert not good
    else:
        assert good


class TableMachine(RuleBasedStateMachine):
    """Adding, removing and asking in any order, with a memory small enough to overflow."""

    @initialize(cached_max=st.sampled_from([0, 1, 4096]))
    def begin(self, cached_max: int) -> None:
        self.table: TopicTable[int] = TopicTable(cached_max)
        self.entries: list[tuple[TopicEntry[int], str]] = []
        self.numbers = itertools.count()

    @rule(pattern=PATTERNS)
    def add(self, pattern: str) -> None:
        self.entries.append((self.table.add(pattern, next(self.numbers)), pattern))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.entries:
            index = data.draw(st.integers(0, len(self.entries) - 1))
            handle, _ = self.entries.pop(index)
            self.table.remove(handle)
            self.table.remove(handle)

    @rule(topic=TOPICS)
    def ask(self, topic: str) -> None:
        expected = [e.value for e, pattern in self.entries if naive(pattern.split("."), topic.split("."))]
        assert list(self.table.match(topic)) == expected

    @invariant()
    def counts(self) -> None:
        assert len(self.table) == len(self.entries)
        if not self.entries:
            assert self.table._root.empty


TestTableMachine = TableMachine.TestCase
