"""Policy files of nodes: what peers may run and use there, read with a line and column for all that is wrong.

flowbridge-node: 1
builtins: true                  # built-in operators that touch no file
files: ./data                   # ... and those that do, in this folder; relative to the policy file
operators:
  - ref: python:flights_ops:clean
    digest: sha256:...          # from `flowbridge node digest`; left out: any source
    peers: [fb://dev/node/host] # left out: everyone with a certificate
rules:                          # nothing is allowed that no rule allows; deny wins
  - allow: [port.read, port.write]
    peers: ["fb://dev/node/*"]
    to: ["*"]
  - allow: [pub, sub]
    to: ["flights.>"]
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowbridge.adapters import rule
from flowbridge.adapters.collect import Findings
from flowbridge.adapters.source import Branch, Items, Scalar, read_tree
from flowbridge.errors import FlowErrors, LocalProtocolError
from flowbridge.loading import read_flow
from flowbridge.machines.node_acl import EVERYONE, AclRule, Action
from flowbridge.machines.node_policy import DIGEST_PREFIX, NodePolicy, OperatorGrant, never_runs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbridge.adapters.collect import Mark
    from flowbridge.adapters.source import Entry, Value

_HEAD: Final = "flowbridge-node"
_VERSION: Final = 1
_KEYS: Final = (_HEAD, "builtins", "files", "operators", "rules")
_OPERATOR_KEYS: Final = ("ref", "digest", "peers")
_RULE_KEYS: Final = ("allow", "deny", "peers", "to")
_DIGEST: Final = re.compile(DIGEST_PREFIX + "[0-9a-f]{64}")
_PEER: Final = re.compile(r"fb://[0-9A-Za-z._*-]+/node/[0-9A-Za-z._*-]+")
_ACTIONS: Final = {action.value: action for action in Action}


def read_policy(path: str, environ: Mapping[str, str] | None = None) -> NodePolicy:
    """The policy of a file. Raises: FlowErrors with every finding."""
    source = read_flow(path)
    findings = Findings(path)
    tree = read_tree(source.text, findings, os.environ if environ is None else environ)
    policy = None if tree is None else _Reader(findings, source.base_dir).policy(tree)
    if policy is None or len(findings):
        raise FlowErrors(findings.closed())
    return policy


class _Reader:
    """Walks the tree once; what does not fit becomes a finding and is passed over."""

    def __init__(self, findings: Findings, base_dir: str) -> None:
        self._findings = findings
        self._base_dir = base_dir

    def policy(self, tree: Value) -> NodePolicy | None:
        keys = self._map(tree, _KEYS, "a policy")
        if keys is None:
            return None
        head = keys.get(_HEAD)
        if head is None:
            self._findings.add(rule.MISSING_KEY, tree.mark, f"{_HEAD}: is missing", f"write `{_HEAD}: {_VERSION}`")
        elif not isinstance(head.value, Scalar) or head.value.value != _VERSION:
            self._findings.add(rule.BAD_VERSION, head.value.mark, f"{_HEAD}: this version reads {_VERSION}")
        builtins = keys.get("builtins")
        if builtins is not None and not (isinstance(builtins.value, Scalar) and type(builtins.value.value) is bool):
            self._findings.add(rule.WRONG_TYPE, builtins.value.mark, "builtins: is true or false")
        files = self._text(keys.get("files"), "files")
        grants = [self._grant(item) for item in self._items(keys.get("operators"), "operators")]
        rules = [found for item in self._items(keys.get("rules"), "rules") for found in self._rules(item)]
        return NodePolicy(
            operators=tuple(grant for grant in grants if grant is not None),
            rules=tuple(rules),
            builtins=builtins is not None and isinstance(builtins.value, Scalar) and builtins.value.value is True,
            files=None if not files else str(Path(self._base_dir, files)),
        )

    def _grant(self, item: Value) -> OperatorGrant | None:
        keys = self._map(item, _OPERATOR_KEYS, "an operator")
        if keys is None:
            return None
        if "ref" not in keys:
            self._findings.add(rule.MISSING_KEY, item.mark, "ref: is missing", "name the operator as a flow does")
            return None
        ref = self._text(keys["ref"], "ref")
        why = never_runs(ref) or ("a reference has no wildcard; list each operator" if "*" in ref else "")
        if ref and why:
            self._findings.add(rule.BAD_OPERATOR, keys["ref"].value.mark, f"ref: {ref!r:.80}: {why}")
        digest = self._text(keys.get("digest"), "digest")
        if digest and not _DIGEST.fullmatch(digest):
            message = "digest: is not sha256: and 64 hexadecimal digits in lower case"
            self._findings.add(
                rule.BAD_VALUE, keys["digest"].value.mark, message, "flowbridge node digest REF prints it"
            )
        return OperatorGrant(ref, digest or None, self._peers(keys.get("peers")))

    def _rules(self, item: Value) -> list[AclRule]:
        keys = self._map(item, _RULE_KEYS, "a rule")
        if keys is None:
            return []
        if ("allow" in keys) == ("deny" in keys):
            self._findings.add(rule.MISSING_KEY, item.mark, "a rule has one of allow: and deny:")
            return []
        if "to" not in keys:
            self._findings.add(rule.MISSING_KEY, item.mark, "to: is missing", "name topics, routes or operators")
            return []
        word = "allow" if "allow" in keys else "deny"
        peers = self._peers(keys.get("peers"))
        names = self._texts(keys["to"], "to")
        found: list[AclRule] = []
        for text, mark in self._texts(keys[word], word):
            action = _ACTIONS.get(text)
            if action is None:
                hint = self._findings.did_you_mean(text, _ACTIONS, f"one of {', '.join(_ACTIONS)}")
                self._findings.add(rule.BAD_VALUE, mark, f"{word}: {text[:40]!r} is no action", hint)
            elif action is Action.INVOKE and word == "allow":
                message = "allow: operators are allowed under operators:, one by one"
                self._findings.add(rule.BAD_VALUE, mark, message)
            else:
                found += self._of_action(action, peers, names, allows=word == "allow")
        return found

    def _of_action(
        self, action: Action, peers: tuple[str, ...], names: list[tuple[str, Mark]], *, allows: bool
    ) -> list[AclRule]:
        found: list[AclRule] = []
        for name, mark in names:
            try:
                found += [AclRule(peer, action, name, allows) for peer in peers]
            except LocalProtocolError as error:
                self._findings.add(rule.BAD_TOPIC, mark, f"to: {error}")
        return found

    def _peers(self, entry: Entry | None) -> tuple[str, ...]:
        if entry is None:
            return (EVERYONE,)
        found = self._texts(entry, "peers")
        for text, mark in found:
            if text != EVERYONE and not _PEER.fullmatch(text):
                message = f"peers: {text[:60]!r} is not fb://FABRIC/node/NAME, where * stands for any characters"
                self._findings.add(rule.BAD_NAME, mark, message)
        return tuple(text for text, _ in found)

    # --- plain shapes -----------------------------------------------------------------------------------------------

    def _map(self, value: Value, known: Collection[str], what: str) -> dict[str, Entry] | None:
        if not isinstance(value, Branch):
            self._findings.add(rule.WRONG_TYPE, value.mark, f"{what} is a map")
            return None
        for key, entry in value.entries.items():
            if key not in known:
                hint = self._findings.did_you_mean(key, known, f"one of {', '.join(known)}")
                self._findings.add(rule.UNKNOWN_KEY, entry.mark, f"{what} has no key {key[:40]!r}", hint)
        return value.entries

    def _items(self, entry: Entry | None, key: str) -> list[Value]:
        if entry is None:
            return []
        if not isinstance(entry.value, Items):
            self._findings.add(rule.WRONG_TYPE, entry.value.mark, f"{key}: is a list")
            return []
        return entry.value.values

    def _texts(self, entry: Entry, key: str) -> list[tuple[str, Mark]]:
        """A list of texts, at least one; a single text stands for a list of it."""
        value = entry.value
        items = value.values if isinstance(value, Items) else [value]
        if not items:
            self._findings.add(rule.BAD_VALUE, value.mark, f"{key}: is empty")
        found: list[tuple[str, Mark]] = []
        for item in items:
            if isinstance(item, Scalar) and isinstance(item.value, str) and item.value:
                found.append((item.value, item.mark))
            else:
                self._findings.add(rule.WRONG_TYPE, item.mark, f"{key}: is a list of texts")
        return found

    def _text(self, entry: Entry | None, key: str) -> str:
        if entry is None:
            return ""
        if isinstance(entry.value, Scalar) and isinstance(entry.value.value, str) and entry.value.value:
            return entry.value.value
        self._findings.add(rule.WRONG_TYPE, entry.value.mark, f"{key}: is a text")
        return ""
