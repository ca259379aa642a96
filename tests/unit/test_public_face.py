"""The public face: exact, in one home each, and loaded only when used."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

import flowbridge
from flowbridge import errors

ROOT: Final = Path(__file__).resolve().parents[2]
HEAVY: Final = (
    *("aioquic", "asyncio", "cbor2", "numpy", "opentelemetry", "prometheus_client", "pyarrow", "pydantic", "rich"),
    *("typer", "uvloop", "wasmtime", "yaml"),
)
PUBLIC: Final = [name for name in flowbridge.__all__ if name != "__version__"]


def declared_homes() -> dict[str, str]:
    """What the type checkers see: each name and the module it is imported from."""
    tree = ast.parse(Path(flowbridge.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    pairs = [(alias.name, node.module or "") for node in imports for alias in node.names]
    assert len(pairs) == len({name for name, _ in pairs}), "a name is imported from two homes"
    return dict(pairs)


def loaded_after(statement: str) -> set[str]:
    """The names of all modules after a statement ran in a fresh interpreter."""
    report = "import json\nprint(json.dumps(sorted(loaded)))"
    script = f"import sys\nbefore = set(sys.modules)\n{statement}\nloaded = set(sys.modules) - before\n{report}"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_the_list_of_public_names_is_exact() -> None:
    assert flowbridge.__all__ == sorted(set(flowbridge.__all__))
    assert set(PUBLIC) == set(declared_homes())


def test_what_runs_agrees_with_what_the_checkers_see() -> None:
    assert declared_homes() == vars(flowbridge)["_HOME_OF"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_lives_in_one_home(name: str) -> None:
    home = declared_homes()[name]
    value = getattr(flowbridge, name)
    assert value is getattr(importlib.import_module(home), name)
    assert value.__module__ == home
    assert value.__name__ == name


def test_every_error_is_public() -> None:
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert found <= set(PUBLIC)


def test_dir_lists_every_public_name() -> None:
    assert set(flowbridge.__all__) <= set(dir(flowbridge))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flowbridge' has no attribute 'Hots'"):
        getattr(flowbridge, "Hots")  # noqa: B009 - a checker would refuse the plain form, which is the point


def test_importing_flowbridge_loads_only_itself() -> None:
    loaded = loaded_after("import flowbridge")
    assert {name for name in loaded if name.split(".")[0] == "flowbridge"} == {"flowbridge"}
    assert {name.split(".")[0] for name in loaded} & set(HEAVY) == set()


def test_the_words_load_no_heavy_library() -> None:
    loaded = loaded_after(
        "from flowbridge import Envelope, FlowErrors, Plan, Priority, Qos, RunReport, Transport, WouldBlock"
    )
    assert {name.split(".")[0] for name in loaded} & set(HEAVY) == set()


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert flowbridge.__version__ == project["version"]
