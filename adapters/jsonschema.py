"""The JSON Schema of the flow language, for editors; ``python -m flowbridge.adapters.jsonschema`` prints it.

It says what the models of `syntax` say. Checks that need more than one value (names, types, cycles) are not in it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from flowbridge.adapters.syntax import Flow

_VARIABLE = {"type": "string", "pattern": r"\$\{", "description": "From the environment: ${NAME} or ${NAME:-default}."}


def flow_schema() -> dict[str, Any]:
    """The schema as a JSON document (draft 2020-12)."""
    schema: dict[str, Any] = _tidy(Flow.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flowbridge flow, version 1",
        **schema,
    }


def _tidy(value: Any) -> Any:
    """Leave out what only pydantic means, and let `${NAME}` stand where a word or number is wanted."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidy(item) for key, item in value.items() if not _is_noise(key, item)}
    for pattern, item in tidy.pop("patternProperties", {}).items():  # as it stands, other names would pass
        tidy |= {"propertyNames": {"pattern": pattern}, "additionalProperties": item}
    if "enum" in tidy or "pattern" in tidy or tidy.get("type") in ("integer", "boolean"):
        described = {key: tidy.pop(key) for key in ("description", "default") if key in tidy}
        return {"anyOf": [tidy, _VARIABLE], **described}
    return tidy


def _is_noise(key: str, item: Any) -> bool:
    return (key == "title" and isinstance(item, str)) or (key == "default" and item is None)


def page() -> str:
    """The text of ``docs/reference/flow.schema.json``."""
    return json.dumps(flow_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
