"""Every rule a flow can break, in one table; ``python -m flowbridge.adapters.rule`` prints it as a page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to refuse a flow: a stable id, what is wrong, and what to do about it."""

    id: str
    title: str
    remedy: str


RULES: Final[dict[str, Rule]] = {}
"""Every rule by its id, in the order of the page."""


def _rule(id_: str, title: str, remedy: str) -> Rule:
    assert id_ not in RULES, f"rule {id_} is defined twice"
    rule = RULES[id_] = Rule(id_, title, remedy)
    return rule


# --- the file -----------------------------------------------------------------------------------------------------
FILE_UNREADABLE: Final = _rule(
    "FB001", "The file cannot be read", "Check that the path names a file and that you may read it."
)
FILE_TOO_LARGE: Final = _rule(
    "FB002", "The file is too large", "Split the flow; data belongs in files of its own, not in the flow."
)
FILE_NOT_TEXT: Final = _rule("FB003", "The file is not UTF-8 text", "Save the file as UTF-8 without NUL characters.")
FILE_EMPTY: Final = _rule("FB004", "The file says nothing", "Write `flowbridge: 1`, a name and at least one node.")

# --- YAML ---------------------------------------------------------------------------------------------------------
YAML_SYNTAX: Final = _rule("FB101", "The text is not YAML", "Mend the syntax at the place that is named.")
TAB: Final = _rule("FB102", "A tab where YAML wants spaces", "Indent with spaces.")
DUPLICATE_KEY: Final = _rule("FB103", "A key stands twice in one map", "Keep one of the two.")
DOCUMENTS: Final = _rule("FB104", "More than one document", "Keep one flow per file; remove the `---` between them.")
MERGE_KEY: Final = _rule("FB105", "A merge key `<<`", "Write the keys out, or put common settings under `defaults:`.")
YAML_BOOLEAN: Final = _rule(
    "FB106",
    "A word that other YAML readers take for a boolean",
    'Write `true` or `false` for a boolean, and quotes around a text such as "NO".',
)
YAML_NUMBER: Final = _rule(
    "FB107",
    "A number that YAML readers disagree about",
    "Write an ordinary decimal number, or quotes around a text. `010`, `0o10`, `1_000` and `12:30` are such numbers.",
)
KEY_NOT_TEXT: Final = _rule("FB108", "A key is not text", "Put the key in quotes; a key is never a list or a map.")
TOO_DEEP: Final = _rule("FB109", "Nested too deep", "Flatten the value; nothing below the limit was looked at.")
TOO_MANY_VALUES: Final = _rule(
    "FB110", "Too many values, aliases counted as often as they are used", "Use fewer aliases, or split the flow."
)
ALIAS: Final = _rule("FB111", "An alias without a usable anchor", "Define the `&anchor` before its `*alias`.")
TAG: Final = _rule("FB112", "A YAML tag or directive", "Remove it; a flow needs neither `!tags` nor `%directives`.")
ENVIRONMENT: Final = _rule(
    "FB113",
    "An environment variable that cannot be put in",
    "Set the variable, or give a default: `${NAME:-default}`. `$$` is a dollar.",
)
NUMBER_RANGE: Final = _rule("FB114", "A number out of range", "Use a finite number of at most 64 bits, or quotes.")

# --- shape --------------------------------------------------------------------------------------------------------
UNKNOWN_KEY: Final = _rule("FB201", "An unknown key", "Remove the key or mend its spelling.")
WRONG_TYPE: Final = _rule("FB202", "A value of the wrong type", "Write a value of the type that is named.")
MISSING_KEY: Final = _rule("FB203", "A required key is missing", "Add the key.")
BAD_UNIT: Final = _rule(
    "FB204", "A quantity without a known unit", "Write durations as `20ms`, sizes as `64KiB`, rates as `30hz`."
)
BAD_VALUE: Final = _rule("FB205", "A value that is not allowed here", "Choose one of the values that are named.")
BAD_NAME: Final = _rule(
    "FB206", "A name that is not a name", "Use letters, digits, `_`, `-` and `.`, beginning with a letter or digit."
)
BAD_VERSION: Final = _rule("FB207", "An unknown language version", "Write `flowbridge: 1`.")

# --- names --------------------------------------------------------------------------------------------------------
DUPLICATE_NODE: Final = _rule("FB301", "Two nodes have one id", "Rename one of them.")
UNKNOWN_NODE: Final = _rule("FB302", "An input names a node that is not there", "Mend the name or add the node.")
UNKNOWN_PORT: Final = _rule("FB303", "A port that the node does not have", "Use one of the ports that are named.")
UNKNOWN_OPERATOR: Final = _rule(
    "FB304", "A built-in operator that is not there", "Mend the name; your own are `python:module:attr`."
)
BAD_OPERATOR: Final = _rule(
    "FB305",
    "An operator reference that cannot be read",
    "Write a built-in's name, `python:module:attr`, `python:./file.py:attr` or `host:name`.",
)
UNKNOWN_SCHEMA: Final = _rule("FB306", "A schema that is not declared", "Declare it under `schemas:`.")
BAD_FIELD_TYPE: Final = _rule("FB307", "A column type that is not known", "Use one of the types of the language page.")
BAD_TOPIC: Final = _rule(
    "FB308",
    "A bus topic or pattern that cannot be",
    "Join words of letters, digits, `_` and `-` by dots; only patterns have `*` (one word) and a last `>`.",
)
BAD_ENDPOINT: Final = _rule(
    "FB309", "An input that names no end", "Write `node/port`, `timer/100ms`, `timer/30hz` or `bus/topic.words`."
)
DUPLICATE_ROUTE: Final = _rule("FB310", "One input is joined twice to the same end", "Remove one of the two.")

# --- operators ----------------------------------------------------------------------------------------------------
UNKNOWN_CONFIG: Final = _rule("FB401", "A setting that the operator does not have", "Remove it or mend its spelling.")
MISSING_CONFIG: Final = _rule("FB402", "A setting that the operator needs is missing", "Add it under `with:`.")
BAD_CONFIG: Final = _rule("FB403", "A setting of the wrong type or value", "Write a value of the type that is named.")
MISSING_INPUT: Final = _rule(
    "FB404", "An input of a built-in operator is not joined", "Name its source under `inputs:`."
)
REFUSED_CONFIG: Final = _rule(
    "FB405", "A configuration that the operator refuses", "Mend the expression or value that is named."
)

# --- the graph ----------------------------------------------------------------------------------------------------
TYPE_MISMATCH: Final = _rule(
    "FB501", "The two ends of a route carry different types", "Convert in a node between them, or mend the `type`."
)
SCHEMA_MISMATCH: Final = _rule(
    "FB502", "The two ends of a route have different shapes", "Give the missing columns, or ask for fewer."
)
UNREACHED: Final = _rule(
    "FB503", "A node that no source reaches", "Join it to a source, a timer or the bus, or remove it."
)
CYCLE: Final = _rule(
    "FB504",
    "A cycle without a feedback edge",
    "Mark the edge that leads back with `feedback: true` and give it a queue that drops, or break the cycle.",
)
FEEDBACK: Final = _rule("FB505", "`feedback: true` on an edge that closes no cycle", "Remove it.")
CREDIT: Final = _rule(
    "FB506",
    "A cycle that can run out of credit",
    "Give one edge of the cycle, best the feedback edge, a policy other than `block`.",
)
BUDGET: Final = _rule(
    "FB507",
    "Budgets along a path exceed its deadline",
    "Allow more time, or shorten the path; the declared budgets alone already take longer.",
)
TIER: Final = _rule(
    "FB508",
    "A route cannot use this tier",
    "Leave `tier` out, or place the nodes together.",
)
RESOURCE: Final = _rule(
    "FB509", "A resource with untyped outputs", "Give each output `type: json` or `type: cbor` and a `schema`."
)
PLACE: Final = _rule("FB510", "A place with both process and host", "Keep one of the two.")
MISPLACED: Final = _rule(
    "FB511",
    "A setting that this kind of input does not have",
    "`group` and `reply` belong to `bus/...`; `feedback`, `tier` and `delivery` belong to `node/port`.",
)
DELIVERY: Final = _rule(
    "FB512",
    "A delivery that cannot be kept",
    "Give the route a queue that does not drop, and for `effectively_once` its node `snapshot:` and an operator with "
    "both hooks; or leave `delivery` out.",
)

# --- limits -------------------------------------------------------------------------------------------------------
LIMIT: Final = _rule("FB901", "A limit is exceeded", "Stay within the limit that is named.")
FURTHER: Final = _rule("FB999", "More findings than are shown", "Mend those that are shown and check again.")

_SECTIONS: Final = {
    "0": "The file",
    "1": "YAML",
    "2": "Shape",
    "3": "Names",
    "4": "Operators",
    "5": "The graph",
    "9": "Limits",
}


def page() -> str:
    """The table of all rules as Markdown: the text of ``docs/reference/rules.md``."""
    lines = [
        "# Rules of a flow",
        "",
        "<!-- Printed by `python -m flowbridge.adapters.rule`; change the table there. -->",
        "",
        "Each finding is printed as `file:line:column: RULE message`. A rule keeps its id for good.",
    ]
    section = ""
    for rule in RULES.values():
        if rule.id[2] != section:
            section = rule.id[2]
            lines += [
                "",
                f"## {_SECTIONS[section]}",
                "",
                "| Rule | What is wrong | What to do |",
                "| --- | --- | --- |",
            ]
        lines.append(f"| {rule.id} | {rule.title} | {rule.remedy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
