"""From the reference in a manifest to the thing that a user wrote, and its configuration made ready."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbridge.errors import FlowbridgeError, MissingExtraError, OperatorLoadError
from flowbridge.plan import ArtifactKind
from flowbridge.runtime.call import said

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from flowbridge.contracts import OperatorCatalog
    from flowbridge.plan import PluginManifest


class Loader:
    """Finds operators: built-in ones in a catalogue, a host's own by name, others by import."""

    def __init__(
        self, catalog: OperatorCatalog, own: Mapping[str, Any], base_dir: str, *, installed_only: bool = False
    ) -> None:
        self._installed_only = installed_only  # no module of the flow's folder, which others may write to
        self._catalog = catalog
        self._own = own
        self._base_dir = Path(base_dir)

    def load(self, manifest: PluginManifest) -> tuple[Any, dict[str, Any]]:
        """The function, class or object, and its configuration with paths made absolute.

        Raises: OperatorLoadError saying what is missing.
        """
        if manifest.artifact.kind is not ArtifactKind.PYTHON_OPERATOR:
            raise OperatorLoadError(manifest.node, f"{manifest.artifact.kind.value} operators cannot be run here")
        kind, _, rest = manifest.artifact.ref.partition(":")
        try:
            if not rest:
                return self._built_in(manifest, kind)
            config = dict(manifest.config)
            if kind == "host":
                return self._of_host(manifest.node, rest), config
            return self._imported(manifest.node, rest), config
        except FlowbridgeError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
            raise OperatorLoadError(
                manifest.node, f"{manifest.artifact.ref} cannot be imported: {said(error)}"
            ) from error

    def _built_in(self, manifest: PluginManifest, name: str) -> tuple[Any, dict[str, Any]]:
        spec = self._catalog.get(name)
        if spec is None:
            raise OperatorLoadError(manifest.node, f"there is no operator {name}")
        module, _, attr = spec.factory.partition(":")
        try:
            made = getattr(importlib.import_module(module), attr)
        except ImportError as error:
            if spec.extra:
                raise MissingExtraError(spec.extra, f"operator {name}") from error
            raise
        config = dict(manifest.config)
        for field in spec.config:
            value = config.get(field.name)
            if field.type == "path" and isinstance(value, str):
                config[field.name] = str(self._base_dir / Path(value).expanduser())
        return made, config

    def _of_host(self, node: str, name: str) -> Any:
        if name not in self._own:
            known = ", ".join(sorted(self._own)) or "none"
            raise OperatorLoadError(node, f"the host has no operator {name}; it has {known}")
        return self._own[name]

    def _imported(self, node: str, reference: str) -> Any:
        place, _, attr = reference.rpartition(":")
        if not place:
            raise OperatorLoadError(node, f"python:{reference} has no attribute; write python:module:attribute")
        module = self._from_file(node, place) if place.endswith(".py") else self._by_name(node, place)
        made: Any = module
        for part in attr.split("."):
            if not hasattr(made, part):
                names = sorted(name for name in vars(module) if not name.startswith("_"))
                raise OperatorLoadError(node, f"{place} has no {attr}; it has {', '.join(names) or 'nothing'}")
            made = getattr(made, part)
        return made

    def _by_name(self, node: str, name: str) -> ModuleType:
        """Import a module; the folder of the flow is looked in first, as Python does for a script."""
        if self._installed_only:
            return importlib.import_module(name)
        folder = self._base_dir.resolve()
        sys.path.insert(0, str(folder))
        try:
            module = importlib.import_module(name)
        finally:
            sys.path.remove(str(folder))
        top = name.partition(".")[0]
        loaded = getattr(sys.modules.get(top), "__file__", None)
        for own in (folder / f"{top}.py", folder / top / "__init__.py"):
            if own.is_file() and loaded is not None and own.resolve() != Path(loaded).resolve():
                hint = f"name the file: python:./{own.relative_to(folder)}:..."
                raise OperatorLoadError(node, f"{top} is loaded from {loaded} already, not from {own}; {hint}")
        return module

    def _from_file(self, node: str, place: str) -> ModuleType:
        if self._installed_only:
            raise OperatorLoadError(node, f"{place}: only installed modules are loaded here")
        path = (self._base_dir / Path(place).expanduser()).resolve()
        if not path.is_file():
            raise OperatorLoadError(node, f"{path}: no such file")
        name = f"flowbridge_operators_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None, f"{path} ends in .py"
        assert spec.loader is not None, f"{path} ends in .py"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
