"""From the text of a flow to a tree of values, each with its line and column.

The tree is built from parser events without recursion, so neither deep nesting nor a bomb of aliases costs more than
reading the text: an alias shares the value of its anchor, and its size is added, not its contents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from flowbridge.adapters import rule, scalar
from flowbridge.limits import YAML_DEPTH_MAX, YAML_NODES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowbridge.adapters.collect import Findings, Mark

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DIRECTIVES_MAX: Final = 8  # the parser compares each with all before it
_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)
_NOT_YAML: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.2.2, 5.1
_PLAIN_KEYS: Final = {("retry", "on")}  # parent and key: words of the language that YAML 1.1 takes for booleans


@dataclass(slots=True)
class Scalar:
    """A text, number, boolean or None."""

    value: object
    mark: Mark


class Entry(NamedTuple):
    """One key of a map, and what stands behind it."""

    mark: Mark
    value: Value


@dataclass(slots=True)
class Branch:
    """A map; keys are text."""

    mark: Mark
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])


@dataclass(slots=True)
class Items:
    """A list."""

    mark: Mark
    values: list[Value] = field(default_factory=list["Value"])


Value: TypeAlias = "Scalar | Branch | Items"


def plain(value: Value) -> Any:
    """The same as dicts, lists and scalars. The depth of a tree is bounded, so this may recurse."""
    if isinstance(value, Scalar):
        return value.value
    if isinstance(value, Items):
        return [plain(item) for item in value.values]
    return {key: plain(entry.value) for key, entry in value.entries.items()}


class _Stop(Exception):
    """Nothing sensible can be read beyond this place."""


class _Anchored(NamedTuple):
    """What an alias stands for; `size` counts values, `height` levels."""

    value: Value
    size: int
    height: int


@dataclass(slots=True)
class _Frame:
    """A list or map whose end has not come yet."""

    value: Branch | Items
    anchor: str | None
    as_key: bool  # it stands where a key should: it is read and forgotten
    parent_key: str
    key: str | None = None
    key_mark: Mark | None = None  # set while a value is awaited
    size: int = 1
    height: int = 1


class _Builder:
    """Takes events one by one and grows the tree."""

    def __init__(self, findings: Findings, environ: Mapping[str, str]) -> None:
        self.root: Value | None = None
        self._findings = findings
        self._environ = environ
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._total = 0
        self._documents = 0

    def feed(self, events: Iterable[Any]) -> None:
        for event in events:
            kind = type(event)
            if kind is ScalarEvent:
                self._scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, kind is MappingStartEvent)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                self._document(event)

    def _document(self, event: Any) -> None:
        self._documents += 1
        mark = _mark(event)
        if self._documents > 1:
            self._findings.add(rule.DOCUMENTS, mark, "a second document begins here")
            raise _Stop
        if event.version is not None or event.tags:
            self._findings.add(rule.TAG, mark, "a % directive stands before the document")

    def _count(self, mark: Mark, size: int, height: int) -> None:
        self._total += size
        if self._total > YAML_NODES_MAX:
            self._findings.add(rule.TOO_MANY_VALUES, mark, f"more than {YAML_NODES_MAX} values, aliases expanded")
            raise _Stop
        if len(self._stack) + height > YAML_DEPTH_MAX:
            self._findings.add(rule.TOO_DEEP, mark, f"nested more than {YAML_DEPTH_MAX} deep")
            raise _Stop

    def _wants_key(self) -> bool:
        frame = self._stack[-1] if self._stack else None
        return frame is not None and frame.key_mark is None and isinstance(frame.value, Branch)

    def _scalar(self, event: Any) -> None:
        mark = _mark(event)
        self._count(mark, 1, 0)
        if event.tag is not None:
            self._findings.add(rule.TAG, mark, f"the tag {event.tag[:40]} is not used in a flow")
        text: str = event.value
        is_plain = not event.style
        if self._wants_key():
            self._key(text, mark, is_plain)
            return
        value: object = text
        if "$" in text:
            value = text_put_in = scalar.put_in(text, self._environ, mark, self._findings)
            if is_plain and text_put_in and text_put_in != text:
                value = scalar.resolve_put_in(text_put_in)
        elif is_plain and event.tag is None:
            value = scalar.resolve(text, mark, self._findings)
        self._attach(_Anchored(Scalar(value, mark), 1, 0), event.anchor)

    def _key(self, text: str, mark: Mark, is_plain: bool) -> None:
        frame = self._stack[-1]
        frame.key, frame.key_mark = text, mark
        if is_plain and text == "<<":
            frame.key = None
            self._findings.add(rule.MERGE_KEY, mark, "`<<` merges maps; this is not part of YAML 1.2")
            return
        if is_plain and not scalar.is_plain_key(text) and (frame.parent_key, text) not in _PLAIN_KEYS:
            message = f"key {text[:40] or '(empty)'} is not text to every reader"
            self._findings.add(scalar.key_rule(text), mark, message, f'write "{text[:40]}"')
        assert isinstance(frame.value, Branch)
        first = frame.value.entries.get(text)
        if first is not None:
            frame.key = None
            self._findings.add(rule.DUPLICATE_KEY, mark, f"key {text[:40]} stands already in line {first.mark[0]}")

    def _open(self, event: Any, is_map: bool) -> None:
        mark = _mark(event)
        self._count(mark, 1, 1)
        if event.tag is not None:
            self._findings.add(rule.TAG, mark, f"the tag {event.tag[:40]} is not used in a flow")
        as_key = self._wants_key()
        if as_key:
            self._findings.add(rule.KEY_NOT_TEXT, mark, f"a {'map' if is_map else 'list'} stands where a key should")
        above = self._stack[-1].key if self._stack else None
        value: Branch | Items = Branch(mark) if is_map else Items(mark)
        self._stack.append(_Frame(value, event.anchor, as_key, above or ""))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.as_key:
            above = self._stack[-1]
            above.key, above.key_mark = None, frame.value.mark
            return
        self._attach(_Anchored(frame.value, frame.size, frame.height), frame.anchor)

    def _alias(self, event: Any) -> None:
        mark = _mark(event)
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            inside = any(frame.anchor == event.anchor for frame in self._stack)
            why = "stands inside its own anchor" if inside else "has no anchor before it"
            self._findings.add(rule.ALIAS, mark, f"alias *{event.anchor[:40]} {why}")
            anchored = _Anchored(Scalar(None, mark), 1, 0)
        self._count(mark, anchored.size, anchored.height)
        if self._wants_key():
            self._findings.add(rule.KEY_NOT_TEXT, mark, f"alias *{event.anchor[:40]} stands where a key should")
            frame = self._stack[-1]
            frame.key, frame.key_mark = None, mark
            return
        self._attach(anchored, None)

    def _attach(self, done: _Anchored, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = done
        if not self._stack:
            self.root = done.value
            return
        frame = self._stack[-1]
        frame.size += done.size
        frame.height = max(frame.height, done.height + 1)
        if isinstance(frame.value, Items):
            frame.value.values.append(done.value)
            return
        if frame.key is not None and frame.key_mark is not None:
            frame.value.entries[frame.key] = Entry(frame.key_mark, done.value)
        frame.key, frame.key_mark = None, None


def _mark(event: Any) -> Mark:
    start = event.start_mark
    return (start.line + 1, start.column + 1)


def read_tree(text: str, findings: Findings, environ: Mapping[str, str]) -> Value | None:
    """The tree of a text; None when there is none, and then `findings` says why."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        findings.add(rule.FILE_NOT_TEXT, _mark_at(text, error.start), "a lone surrogate is not UTF-8 text")
        return None
    directives = list(islice(_DIRECTIVE.finditer(text), _DIRECTIVES_MAX + 1))
    if len(directives) > _DIRECTIVES_MAX:
        findings.add(rule.TAG, _mark_at(text, directives[0].start()), "many lines begin with %, as directives do")
        return None
    builder = _Builder(findings, environ)
    try:
        builder.feed(yaml.parse(text, Loader=_LOADER))
    except _Stop:
        return None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        _explain(error, text, findings)
        return None
    if builder.root is None or (isinstance(builder.root, Scalar) and builder.root.value is None):
        findings.add(rule.FILE_EMPTY, (1, 1), "there is no flow in this file")
        return None
    return builder.root


def _mark_at(text: str, index: int) -> Mark:
    before = text[:index]
    return (before.count("\n") + 1, index - before.rfind("\n"))


def _explain(error: Exception, text: str, findings: Findings) -> None:
    """Put what the parser says into a finding."""
    if isinstance(error, yaml.reader.ReaderError):
        found = _NOT_YAML.search(text)
        index = found.start() if found is not None else 0
        message = f"character U+{ord(text[index]) if text else 0:04X} cannot stand in YAML"
        findings.add(rule.FILE_NOT_TEXT, _mark_at(text, index), message)
        return
    place: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    mark = (place.line + 1, place.column + 1) if place is not None else (1, 1)
    lines = text.split("\n", mark[0])
    line = lines[mark[0] - 1] if len(lines) >= mark[0] else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[mark[1] - 1 : mark[1]] == "\t":
        findings.add(rule.TAB, mark, "a tab stands where YAML wants spaces")
        return
    problem = str(getattr(error, "problem", None) or error).splitlines()[0]
    context: str = getattr(error, "context", None) or ""
    hint = 'put "${...}" in quotes inside { } and [ ]' if "${" in line else ""
    findings.add(rule.YAML_SYNTAX, mark, f"{problem} {context}".strip(), hint)
