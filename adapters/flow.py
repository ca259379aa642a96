"""The YAML front end: the text of a flow in, a `Plan` or all findings out."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbridge.adapters.check import check_plan
from flowbridge.adapters.collect import Findings
from flowbridge.adapters.emit import emit_plan, seal
from flowbridge.adapters.resolve import resolve_nodes
from flowbridge.adapters.route import resolve_routes
from flowbridge.adapters.scene import open_scene
from flowbridge.adapters.shape import shape
from flowbridge.adapters.source import read_tree
from flowbridge.errors import FlowErrors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowbridge.contracts import FlowSource, OperatorCatalog
    from flowbridge.plan import Plan


@dataclass(frozen=True, slots=True)
class TextSource:
    """The text of a flow, the name that findings give it, and the folder that its relative paths start from."""

    name: str
    text: str
    base_dir: str = "."


class YamlFlowAdapter:
    """The flow language, version 1. `environ` is where `${NAME}` looks; the process's environment unless told."""

    def __init__(self, catalog: OperatorCatalog, environ: Mapping[str, str] | None = None) -> None:
        self._catalog = catalog
        self._environ = environ

    @property
    def dialect(self) -> str:
        """The word by which the registry knows it."""
        return "yaml"

    def compile(self, graph: FlowSource) -> Plan:
        """The plan; FlowErrors with every finding otherwise. Operators of the user are not imported."""
        with _garbage_left():
            return self._compile(graph)

    def _compile(self, graph: FlowSource) -> Plan:
        findings = Findings(graph.name)
        tree = read_tree(graph.text, findings, os.environ if self._environ is None else self._environ)
        shaped = shape(tree, findings) if tree is not None else None
        if shaped is None:
            raise FlowErrors(findings.closed())
        scene = open_scene(shaped, findings, self._catalog)
        resolve_nodes(scene, self._catalog)
        resolve_routes(scene)
        plan = emit_plan(scene, graph.base_dir)
        check_plan(plan, scene)
        if len(findings):
            raise FlowErrors(findings.closed())
        return seal(plan)


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Do not look for cyclic garbage meanwhile: a large flow makes a million objects, and nearly all of them stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
