"""Topics, patterns and the table of who subscribed to what."""

# pyright: reportPrivateUsage=false
# What must not be left behind is seen only from inside.
from __future__ import annotations

import pytest

from flowbridge.errors import LocalProtocolError
from flowbridge.limits import TOPIC_CHARACTERS_MAX, TOPIC_TOKENS_MAX
from flowbridge.machines import topics
from flowbridge.machines.topics import TopicTable, check_pattern, check_topic, covers

GOOD_TOPICS = ["a", "a.b", "robot.arm-1.joint_3", "_reply.1", "preis.grün", "a/b.c", "x" * TOPIC_CHARACTERS_MAX]
BAD_TOPICS = {
    "": "is empty",
    ".": "empty word",
    ".a": "empty word",
    "a.": "empty word",
    "a..b": "empty word",
    "a.*": "wildcard",
    "a.>": "wildcard",
    "a*": "wildcard",
    "a b": "white space",
    " a": "white space",
    "a.\tb": "white space",
    "a\nb": "unprintable",
    "a\u00a0b": "white space",
    "a\u200bb": "unprintable",
    "a\ud800": "unprintable",
    "gru\u0308n": "NFC",
    "x" * (TOPIC_CHARACTERS_MAX + 1): "is longer than 256 characters: 257",
    ".".join("a" * (TOPIC_TOKENS_MAX + 1)): "has more than 16 words: 17",
}
GOOD_PATTERNS = ["*", ">", "a.*", "*.b", "a.*.c", "a.>", "*.>", "*.*.>"]
BAD_PATTERNS = {
    "": "is empty",
    ">.a": "'>' before its last word",
    "a.>.b": "'>' before its last word",
    ">.>": "'>' before its last word",
    "a*.b": "wildcard in the word 'a*'",
    "**": "wildcard in the word '**'",
    "a.b>": "wildcard in the word 'b>'",
    ">>": "wildcard in the word '>>'",
    ".*": "empty word",
    "*.": "empty word",
}


@pytest.mark.parametrize("topic", GOOD_TOPICS)
def test_a_good_topic_is_a_topic_and_a_pattern(topic: str) -> None:
    check_topic(topic)
    check_pattern(topic)


@pytest.mark.parametrize(("topic", "why"), BAD_TOPICS.items())
def test_a_bad_topic_is_refused_with_the_reason(topic: str, why: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_topic(topic)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 2 * TOPIC_CHARACTERS_MAX


@pytest.mark.parametrize("pattern", GOOD_PATTERNS)
def test_a_good_pattern_is_no_topic(pattern: str) -> None:
    check_pattern(pattern)
    with pytest.raises(LocalProtocolError):
        check_topic(pattern)


@pytest.mark.parametrize(("pattern", "why"), BAD_PATTERNS.items())
def test_a_bad_pattern_is_refused_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_pattern(pattern)
    assert why in str(caught.value)


def test_one_star_is_one_word_and_the_last_wildcard_is_one_or_more() -> None:
    table: TopicTable[str] = TopicTable()
    for pattern in ["a.*", "a.>", ">", "*", "*.b", "a.b", "a.*.c", "a"]:
        table.add(pattern, pattern)
    assert table.match("a") == (">", "*", "a")
    assert table.match("a.b") == ("a.*", "a.>", ">", "*.b", "a.b")
    assert table.match("a.b.c") == ("a.>", ">", "a.*.c")
    assert table.match("b") == (">", "*")


def test_matches_come_in_the_order_of_adding_whatever_the_pattern() -> None:
    table: TopicTable[int] = TopicTable()
    for number, pattern in enumerate([">", "a.b", "*.b", "a.>", "a.*", "a.b", ">"]):
        table.add(pattern, number)
    assert table.match("a.b") == (0, 1, 2, 3, 4, 5, 6)


def test_a_value_under_two_patterns_stands_once_at_its_first_place() -> None:
    table: TopicTable[str] = TopicTable()
    table.add(">", "first")
    table.add("a", "second")
    table.add("*", "first")
    assert table.match("a") == ("first", "second")


def test_a_removed_entry_is_gone_and_its_twin_stays() -> None:
    table: TopicTable[str] = TopicTable()
    one = table.add("a.b", "one")
    two = table.add("a.b", "two")
    assert table.match("a.b") == ("one", "two")
    table.remove(one)
    table.remove(one)
    assert table.match("a.b") == ("two",)
    assert len(table) == 1
    table.remove(two)
    assert table.match("a.b") == ()
    table.remove(two)
    assert len(table) == 0


def test_removing_leaves_no_node_behind() -> None:
    table: TopicTable[int] = TopicTable()
    entries = [table.add(pattern, 0) for pattern in ["a.b.c", "a.b", "a.>", "x.*.z", ">"]]
    for entry in entries:
        table.remove(entry)
    assert table._root.empty


def test_a_handle_of_another_table_removes_nothing() -> None:
    table: TopicTable[str] = TopicTable()
    other: TopicTable[str] = TopicTable()
    table.add("a", "mine")
    table.remove(other.add("a", "theirs"))
    table.remove(other.add("b", "theirs"))
    assert table.match("a") == ("mine",)


def test_a_known_topic_is_answered_from_memory_until_something_changes() -> None:
    table: TopicTable[str] = TopicTable()
    table.add("a", "one")
    first = table.match("a")
    assert table.match("a") is first
    table.add("*", "two")
    assert table.match("a") == ("one", "two")


def test_the_memory_of_topics_is_bounded() -> None:
    table: TopicTable[str] = TopicTable(cached_max=3)
    table.add(">", "all")
    for number in range(10):
        assert table.match(f"t{number}") == ("all",)
        assert len(table._cache) <= 3


def test_a_table_without_memory_answers_the_same() -> None:
    table: TopicTable[str] = TopicTable(cached_max=0)
    table.add("*", "one")
    assert table.match("a") == table.match("a") == ("one",)
    assert not table._cache


def test_a_full_table_refuses_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "SUBSCRIPTIONS_MAX", 2)
    table: TopicTable[int] = TopicTable()
    handle = table.add("a", 1)
    table.add("b", 2)
    with pytest.raises(LocalProtocolError, match="2 subscriptions"):
        table.add("c", 3)
    table.remove(handle)
    table.add("c", 3)


def test_a_bad_topic_is_refused_by_match_every_time() -> None:
    table: TopicTable[int] = TopicTable()
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="empty word"):
            table.match("a..b")


@pytest.mark.parametrize(
    ("general", "special", "expected"),
    [
        ("a.>", "a.>", True),
        ("a.>", "a.b.>", True),
        ("a.>", "a.*", True),
        ("a.>", "a", False),
        ("a.*", "a.>", False),
        ("a.*", "a.*", True),
        ("a.*", "a.b", True),
        ("a.b", "a.*", False),
        (">", "*", True),
        ("*", ">", False),
        ("*.>", ">", False),
        ("*.fire", "alerts.>", False),
        ("alerts.>", "*.fire", False),
        ("a", "a", True),
        ("a", "b", False),
    ],
)
def test_a_pattern_covers_another_when_it_matches_all_its_topics(general: str, special: str, expected: bool) -> None:
    assert covers(general, special) is expected
