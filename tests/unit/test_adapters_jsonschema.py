"""The JSON Schema for editors: it takes flows that compile, and points at keys that are not known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from flowbridge.adapters import jsonschema

_ROOT = Path(__file__).parents[2]
_WHOLE = """\
flowbridge: 1
name: flights
description: some
defaults: {deadline: 500ms, queue: {policy: backpressure, size: 32, bytes: 1MiB, low: 4}}
schemas:
  flight: {version: 2, fields: {carrier: string!, tail: "string?"}}
topics:
  "alerts.>": {priority: realtime, deadline: 50ms, queue: {policy: drop_oldest, size: 16}}
nodes:
  - id: source
    operator: csv_source
    with: {path: data/a.csv}
    outputs: {out: {schema: flight}}
  - id: enrich
    operator: python:operators:enrich
    inputs:
      in: source/out
      both: [source/out, {from: late/out}]
      cmd: {from: "bus/alerts.cmd.*", group: pricers, reply: true}
      back: {from: late/out, feedback: true, queue: {policy: latest}}
    outputs:
      out: {type: arrow, scatter: round_robin}
      spare:
    budget: 2ms
    retry: {max: 3, "on": [TimeoutError]}
    restart: {when: always, window: 1m}
    place: {process: worker}
  - {id: late, operator: window, inputs: {in: enrich/out}, outputs: [out], restart: "${WHEN}", thread: "${T}"}
  - id: odd
    operator: strange
"""


def test_the_schema_for_editors_is_what_the_models_say() -> None:
    assert (_ROOT / "docs/reference/flow.schema.json").read_text() == jsonschema.page()


def complaints(value: Any, schema: Any, root: Any, at: str = "") -> list[str]:
    """Where a value breaks a JSON Schema, for the words that ours uses; an unknown word fails."""
    known = {"$ref", "type", "enum", "const", "pattern", "properties", "required", "additionalProperties", "items"}
    known |= {"anyOf", "oneOf", "propertyNames", "minItems", "minimum", "description", "default", "examples"}
    assert schema.keys() - {"$schema", "$defs", "title"} <= known, schema
    if "$ref" in schema:
        return complaints(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    for word, wanted in (("anyOf", range(1, 99)), ("oneOf", range(1, 2))):
        if word in schema:
            tried = [complaints(value, option, root, at) for option in schema[word]]
            if sum(not found for found in tried) not in wanted:
                return max(tried, key=lambda found: max(line.count("/") for line in found) if found else 0)
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if "type" in schema and not isinstance(value, types[schema["type"]]):
        return [f"{at}: not {schema['type']}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{at}: not allowed"]
    if isinstance(value, str):
        return [] if re.search(schema.get("pattern", ""), value) else [f"{at}: not like {schema['pattern']}"]
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [c for i, v in enumerate(items) for c in complaints(v, schema.get("items", {}), root, f"{at}/{i}")]
    if isinstance(value, dict):
        return _map_complaints(cast("dict[str, Any]", value), schema, root, at)
    return [f"{at}: too small"] if isinstance(value, int) and value < schema.get("minimum", value) else []


def _map_complaints(value: dict[str, Any], schema: Any, root: Any, at: str) -> list[str]:
    found = [f"{at}: {key} is missing" for key in schema.get("required", []) if key not in value]
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        if not re.search(schema.get("propertyNames", {}).get("pattern", ""), key):
            found.append(f"{at}/{key}: bad name")
        if key in schema.get("properties", {}):
            found += complaints(item, schema["properties"][key], root, f"{at}/{key}")
        elif others is False:
            found.append(f"{at}/{key}: unknown key")
        elif isinstance(others, dict):
            found += complaints(item, others, root, f"{at}/{key}")
    return found


def test_the_schema_for_editors_takes_a_flow_that_compiles() -> None:
    schema = json.loads(jsonschema.page())
    assert complaints(yaml.safe_load(_WHOLE), schema, schema) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("description:", "descripton:", "/descripton: unknown key"),
        ("budget: 2ms", "budgt: 2ms", "/nodes/1/budgt: unknown key"),
        ("group: pricers", "grop: pricers", "/nodes/1/inputs/cmd/grop: unknown key"),
        ("scatter: round_robin", "scater: copy", "/nodes/1/outputs/out/scater: unknown key"),
        ("window: 1m", "windw: 1m", "/nodes/1/restart/windw: unknown key"),
        ("policy: latest", "polcy: latest", "/nodes/1/inputs/back/queue/polcy: unknown key"),
        ("  - id: odd\n", "  - id: o d\n", "/nodes/3/id: not like "),
        ("flowbridge: 1", "flowbridge: 2", "/flowbridge: not allowed"),
        ("operator: strange", "per: record", "/nodes/3: operator is missing"),
    ],
)
def test_the_schema_for_editors_points_at_what_is_wrong(old: str, new: str, complaint: str) -> None:
    schema = json.loads(jsonschema.page())
    assert old in _WHOLE
    found = complaints(yaml.safe_load(_WHOLE.replace(old, new)), schema, schema)
    assert any(line.startswith(complaint) for line in found), found
