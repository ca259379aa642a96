"""The digest of an operator's source: what a policy names, so that a changed file does not run unseen."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowbridge.errors import FlowbridgeError
from flowbridge.machines.node_policy import DIGEST_PREFIX

if TYPE_CHECKING:
    from flowbridge.contracts import OperatorCatalog


def operator_digest(ref: str, catalog: OperatorCatalog) -> str:
    """``sha256:...`` over the source file of the module that a reference leads to, which is not run for that.

    A package that the module lies in is imported. What the module imports itself is not covered.
    Raises: FlowbridgeError for what has no source.
    """
    kind, _, rest = ref.partition(":")
    if rest:
        if kind != "python" or not rest.rpartition(":")[0]:
            raise FlowbridgeError(f"operator {ref!r:.120} has no digest; only python:module:attribute has one")
        module = rest.rpartition(":")[0]
    else:
        spec = catalog.get(kind)
        if spec is None:
            raise FlowbridgeError(f"there is no operator {kind!r:.80}")
        module = spec.factory.partition(":")[0]
    try:
        return DIGEST_PREFIX + hashlib.sha256(_source(module).read_bytes()).hexdigest()
    except OSError as error:
        raise FlowbridgeError(f"the source of {ref!r:.120} cannot be read: {error.strerror}") from error


def _source(module: str) -> Path:
    try:
        loaded = sys.modules.get(module)
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(module)
    except Exception as error:  # a package above it is run, and may raise anything
        raise FlowbridgeError(f"module {module!r:.80} cannot be found: {type(error).__name__}: {error}") from error
    if spec is None:
        raise FlowbridgeError(f"module {module!r:.80} is not installed here")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise FlowbridgeError(f"module {module!r:.80} has no source file")
    return Path(spec.origin)
