"""What a node runs for hosts on other machines: an allow-list of operators and the rules of `node_acl`.

An operator runs when an entry of the list names it for that peer, when its source is the one that the entry expects,
and when no rule denies `invoke`. Objects of a host (``host:NAME``) and files (``python:./file.py:attr``) never do:
there is nothing on the node that could be meant. What reads or writes files is kept to one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowbridge.machines.node_acl import EVERYONE, AclRule, Action, NodeAcl, is_principal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbridge.operator_spec import OperatorSpec
    from flowbridge.plan import PluginManifest

DIGEST_PREFIX: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class OperatorGrant:
    """An operator that a node may run: its reference, the digest of its source (None: any), and for whom."""

    ref: str
    digest: str | None = None
    peers: tuple[str, ...] = (EVERYONE,)


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """What peers may do at a node.

    `builtins` grants every built-in operator that touches no file, and with `files` (a folder) those that do, below it.
    """

    operators: tuple[OperatorGrant, ...] = ()
    rules: tuple[AclRule, ...] = ()
    builtins: bool = False
    files: str | None = None

    @property
    def acl(self) -> NodeAcl:
        """The rules, for topics and ports."""
        return NodeAcl(self.rules)

    def knows(self, principal: str) -> bool:
        """Whether anything at all is allowed to a peer."""
        named = [peer for grant in self.operators for peer in grant.peers]
        named += [rule.principal for rule in self.rules if rule.allows]
        return any(is_principal(pattern, principal) for pattern in named)

    def refusal(
        self,
        principal: str,
        manifest: PluginManifest,
        spec: OperatorSpec | None,
        digest_of: Callable[[str], str],
        leads_out: Callable[[str], bool] = lambda _: False,
    ) -> str:
        """Why the node does not run an operator for a peer, in one line; empty when it does.

        `spec` is that of a built-in operator. `digest_of` gives the digest of the source of a reference; its
        FlowbridgeError passes through. `leads_out` says whether a path in the folder `files` leads out of it, over a
        link, say.
        """
        ref = manifest.artifact.ref
        why = never_runs(ref) or self._not_granted(principal, ref, spec, digest_of)
        if not why and spec is not None:
            why = self._outside(manifest.config, spec, leads_out)
        return f"operator {ref!r:.120} is not allowed for {principal}: {why} (0x502 FORBIDDEN)" if why else ""

    def _not_granted(self, principal: str, ref: str, spec: OperatorSpec | None, digest_of: Callable[[str], str]) -> str:
        grants = [
            grant
            for grant in self.operators
            if grant.ref == ref and any(is_principal(peer, principal) for peer in grant.peers)
        ]
        if self.acl.denies(principal, Action.INVOKE, ref):
            return "a rule denies it"
        if not grants:
            if self.builtins and spec is not None:
                return ""
            return "the node's policy does not list it; add it to the operators in the file of its --policy"
        expected = sorted({grant.digest for grant in grants if grant.digest is not None})
        if len(expected) < len({grant.digest for grant in grants}):
            return ""  # one of them takes any source
        found = digest_of(ref)
        return "" if found in expected else f"its source has digest {found}, the policy expects {' or '.join(expected)}"

    def _outside(self, config: Mapping[str, object], spec: OperatorSpec, leads_out: Callable[[str], bool]) -> str:
        names = [setting.name for setting in spec.config if setting.type == "path"]
        if not names:
            return ""
        if self.files is None:
            return f"it uses files ({', '.join(names)}), and the policy names no folder for them (`files:`)"
        for name in names:
            value = config.get(name)
            if isinstance(value, str) and (not _is_below(value) or leads_out(value)):
                return f"{name} {value!r:.80} leads out of the folder {self.files}"
        return ""


def default_policy(fabric: str) -> NodePolicy:
    """Without a policy file: nodes of the own fabric use built-in operators that touch no file, and their routes."""
    peers = f"fb://{fabric}/node/*"
    ports = (Action.PORT_READ, Action.PORT_WRITE)
    return NodePolicy(rules=tuple(AclRule(peers, action, "*") for action in ports), builtins=True)


def never_runs(ref: str) -> str:
    """Why a reference cannot mean anything on a node, whatever a policy says; empty when it can."""
    kind, _, rest = ref.partition(":")
    if not rest:
        return ""
    if kind == "host":
        return "an object of a host stays in its process; name a module that is installed on the node"
    place = rest.rpartition(":")[0]
    if place.endswith(".py") or "/" in place or "\\" in place:
        return "a file of the host is not on the node; name a module that is installed on the node"
    return "" if kind == "python" else f"references of kind {kind!r:.20} are not known"


def _is_below(path: str) -> bool:
    """Whether a path stays in the folder that it starts from, by its text."""
    parts: Sequence[str] = path.replace("\\", "/").split("/")
    return bool(path) and not path.startswith(("/", "~", "\\")) and "\0" not in path and ".." not in parts
