"""The catalog agrees with the classes it names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from flowbridge.operator_spec import REQUIRED, OperatorSpec
from flowbridge.operators.catalog import BUILTINS

WORDS = {
    *("csv_source", "parquet_source", "jsonl_source", "sequence", "timer_source"),
    *("map", "filter", "select", "window", "gather"),
    *("csv_sink", "parquet_sink", "jsonl_sink", "console", "null"),
}
TYPES = {"string", "int", "float", "bool", "duration", "bytes", "path", "expression", "list", "map", "any"}

each_spec = pytest.mark.parametrize("spec", BUILTINS.values(), ids=lambda spec: spec.name)


def test_the_words_of_the_language_are_all_there() -> None:
    assert set(BUILTINS) == WORDS
    assert all(name == spec.name for name, spec in BUILTINS.items())


@each_spec
def test_a_factory_takes_exactly_the_settings_of_its_spec(spec: OperatorSpec) -> None:
    module, _, attribute = spec.factory.partition(":")
    factory: Any = getattr(import_module(module), attribute)
    given = {
        name: REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
    }
    assert given == {field.name: field.default for field in spec.config}


@each_spec
def test_a_spec_is_documented_and_names_known_types(spec: OperatorSpec) -> None:
    assert spec.summary.endswith(".")
    for field in spec.config:
        assert field.type in TYPES
        assert field.doc.endswith(".")
        assert not field.choices or field.default in field.choices


@each_spec
def test_a_factory_makes_a_source_or_a_consumer_as_its_spec_says(spec: OperatorSpec) -> None:
    module, _, attribute = spec.factory.partition(":")
    factory: Any = getattr(import_module(module), attribute)
    assert hasattr(factory, "produce") == spec.is_source
    assert hasattr(factory, "process") != spec.is_source


def test_reading_the_catalog_loads_nothing_heavy() -> None:
    code = (
        "import sys, flowbridge.operators.catalog\n"
        "heavy = {'pyarrow', 'numpy', 'rich', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "raise SystemExit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
