"""Plans as JSON and CBOR documents, and their digest.

The document has the members of `flowbridge.plan.Plan`; `topics` is a list of ``[pattern, qos]``, as its order counts.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from flowbridge.errors import PlanError
from flowbridge.limits import PLAN_DEPTH_MAX
from flowbridge.plan import PLAN_FORMAT, Plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pydantic import TypeAdapter


@cache
def _adapter() -> TypeAdapter[Plan]:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)


def _document(plan: Plan, leave_out: Collection[str] = ()) -> dict[str, Any]:
    document = cast("dict[str, Any]", _adapter().dump_python(plan, mode="json", exclude=set(leave_out)))
    document["topics"] = [[pattern, qos] for pattern, qos in document["topics"].items()]
    return document


def _compact(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plan_to_json(plan: Plan, *, compact: bool = False) -> str:
    """The canonical document: sorted members, on one line when `compact`, else indented by two."""
    document = _document(plan)
    if compact:
        return _compact(document)
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plan_to_cbor(plan: Plan) -> bytes:
    """The same document in CBOR, its maps in the order of the plan: that of columns, say, counts.

    Raises: PlanError for a number in a configuration that has more than 64 bits: nobody reads it without tags.
    """
    import cbor2

    document = _document(plan)
    for manifest in document["manifests"]:
        where = _wide(manifest["config"], "config")
        if where:
            raise PlanError(
                f"plan: node {manifest['node']}: {where} is a number of more than 64 bits; write it as text"
            )
    return cbor2.dumps(document)


def _wide(value: Any, where: str) -> str:
    """Where a number needs more than 64 bits; empty when none does."""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**64 else where
    parts: Iterable[tuple[object, Any]] = ()
    if isinstance(value, dict):
        parts = cast("dict[object, Any]", value).items()
    elif isinstance(value, list):
        parts = enumerate(cast("Sequence[Any]", value))
    return next((found for key, part in parts if (found := _wide(part, f"{where}.{key}"))), "")


def digest_of(plan: Plan) -> str:
    """``sha256:...`` over the compact document without digest, positions and base folder."""
    text = _compact(_document(plan, ("digest", "positions", "base_dir")))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plan_from_json(text: str | bytes) -> Plan:
    """The plan of a document. Raises: PlanError for another major format or a damaged document, naming where."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan is not JSON: {error}") from error
    return _plan(document)


def plan_from_cbor(data: bytes) -> Plan:
    """As `plan_from_json`, for CBOR without tags, indefinite lengths and keys that are no text. For any bytes."""
    from flowbridge.codec.arrays import NOT_AGREED, read_plain

    try:
        document = read_plain(data, PLAN_DEPTH_MAX)
    except NOT_AGREED as error:
        raise PlanError(f"plan is not CBOR: {error!s:.200}") from error
    return _plan(document)


def _plan(document: object) -> Plan:
    from pydantic import ValidationError

    if not isinstance(document, dict):
        raise PlanError("plan: a map is needed")
    members = cast("dict[str, Any]", document)
    _check_format(members.get("format"))
    topics = members.get("topics", [])
    try:
        members["topics"] = dict(topics)
        plan = _adapter().validate_json(json.dumps(members, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "plan"
        raise PlanError(f"plan is damaged at {where}: {first['msg']}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"plan is damaged: {error}") from error
    # A document of another minor was digested with other members than those known here.
    if plan.format == PLAN_FORMAT and digest_of(plan) != plan.digest:
        raise PlanError(f"plan is damaged at digest: {plan.digest[:80]} is not that of the content")
    return plan


def _check_format(found: object) -> None:
    pair = cast("list[object]", found) if isinstance(found, list) else []
    if len(pair) != 2 or not all(isinstance(part, int) for part in pair):
        raise PlanError(f"plan is damaged at format: {found!r:.40} is not [major, minor]")
    if pair[0] != PLAN_FORMAT[0]:
        raise PlanError(f"plan format {pair[0]}.{pair[1]}: this version reads {PLAN_FORMAT[0]}.x")
