"""What peers may do: held against the definition, topic by topic."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flowbridge.machines.node_acl import TOPIC_ACTIONS, AclRule, Action, NodeAcl, overlap
from flowbridge.machines.topics import covers

WORDS = st.sampled_from(["a", "b"])
PATTERNS = st.tuples(st.lists(st.one_of(WORDS, st.just("*")), max_size=2), st.sampled_from(["a", "b", "*", ">"])).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)
ALL_TOPICS = [".".join(words) for count in range(1, 5) for words in itertools.product("abc", repeat=count)]
PEERS = st.sampled_from(["fb://dev/node/host", "fb://dev/node/edge", "fb://other/node/host"])
WHO = st.sampled_from(["*", "fb://dev/node/*", "fb://*/node/host", "fb://dev/node/host", "fb://dev/*"])
TOPIC_RULES = st.builds(AclRule, WHO, st.sampled_from(sorted(TOPIC_ACTIONS, key=str)), PATTERNS, st.booleans())
NAMES = st.text("ab/->*", min_size=1, max_size=6)
OTHER = st.sampled_from([Action.PORT_READ, Action.PORT_WRITE, Action.INVOKE])
NAME_RULES = st.builds(AclRule, WHO, OTHER, NAMES, st.booleans())


def topics(pattern: str) -> set[str]:
    return {topic for topic in ALL_TOPICS if covers(pattern, topic)}


@given(PATTERNS, PATTERNS)
def test_two_patterns_overlap_when_some_topic_is_in_both(one: str, other: str) -> None:
    assert overlap(one, other) == overlap(other, one) == bool(topics(one) & topics(other))


@given(st.lists(st.one_of(TOPIC_RULES, NAME_RULES), max_size=6), PEERS, PATTERNS)
def test_what_may_be_subscribed_may_be_had_topic_by_topic(rules: list[AclRule], who: str, pattern: str) -> None:
    acl = NodeAcl(rules)
    for action in TOPIC_ACTIONS:
        if acl.may(who, action, pattern):
            assert all(acl.may(who, action, topic) for topic in topics(pattern))


@given(st.lists(st.one_of(TOPIC_RULES, NAME_RULES), max_size=6), PEERS, st.one_of(PATTERNS, NAMES))
def test_nothing_is_allowed_that_no_rule_allows(rules: list[AclRule], who: str, name: str) -> None:
    denying = NodeAcl(rule for rule in rules if not rule.allows)
    assert not any(denying.may(who, action, name) for action in Action)
    assert not any(NodeAcl(rules).may("", action, name) for action in Action)


@given(st.lists(st.one_of(TOPIC_RULES, NAME_RULES), max_size=6), st.data())
def test_a_rule_that_denies_wins_in_any_order(rules: list[AclRule], data: st.DataObject) -> None:
    who = data.draw(PEERS)
    denied = data.draw(st.one_of(TOPIC_RULES, NAME_RULES).filter(lambda rule: not rule.allows))
    mixed = data.draw(st.permutations([*rules, denied]))
    with_all = AclRule("*", denied.action, ">" if denied.action in TOPIC_ACTIONS else "*")
    asked = data.draw(st.sampled_from(sorted(topics(denied.name)))) if denied.action in TOPIC_ACTIONS else denied.name
    if NodeAcl([denied]).denies(who, denied.action, asked):
        assert not NodeAcl([*mixed, with_all]).may(who, denied.action, asked)


@given(st.lists(st.one_of(TOPIC_RULES, NAME_RULES), max_size=5), st.one_of(TOPIC_RULES, NAME_RULES), PEERS, PATTERNS)
def test_a_further_rule_moves_the_answer_one_way_only(
    rules: list[AclRule], further: AclRule, who: str, pattern: str
) -> None:
    for action in TOPIC_ACTIONS:
        before, after = NodeAcl(rules).may(who, action, pattern), NodeAcl([*rules, further]).may(who, action, pattern)
        assert (after >= before) if further.allows else (after <= before)


@given(NAME_RULES, st.text("ab/->", max_size=8))
def test_a_star_in_the_name_of_a_route_is_any_text(rule: AclRule, name: str) -> None:
    def naive(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return naive(pattern[1:], text) or bool(text and naive(pattern, text[1:]))
        return bool(text) and pattern[0] == text[0] and naive(pattern[1:], text[1:])

    who = "fb://dev/node/host"
    allowing = AclRule("*", rule.action, rule.name)
    assert NodeAcl([allowing]).may(who, rule.action, name) == naive(rule.name, name)
