"""From a file to a `Plan`: a flow is compiled, a plan document (``.json``, ``.cbor``) is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowbridge import registry
from flowbridge.adapters import rule
from flowbridge.codec import plan as codec
from flowbridge.errors import FlowErrors, PlanError
from flowbridge.finding import Finding, Position
from flowbridge.limits import FLOW_FILE_BYTES_MAX, PLAN_FILE_BYTES_MAX

if TYPE_CHECKING:
    from flowbridge.plan import Plan


@dataclass(frozen=True, slots=True)
class FlowText:
    """The text of a flow file; relative paths in the flow start from the file's folder."""

    name: str
    text: str
    base_dir: str


def load(path: str | Path) -> Plan:
    """The plan of a flow file or of a plan document.

    Raises: FlowErrors when the file cannot be read or the flow is refused; PlanError for a damaged plan document.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".cbor"):
        return registry.adapter("yaml").compile(read_flow(path))
    data = _read(path, PLAN_FILE_BYTES_MAX)
    try:
        plan = codec.plan_from_json(data) if suffix == ".json" else codec.plan_from_cbor(data)
        # A plan names the folder of its flow from where it lies itself, so that both can be moved together.
        return replace(plan, base_dir=str(Path(path).parent / plan.base_dir))
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error.__cause__


def read_flow(path: str | Path) -> FlowText:
    """The text of a flow file. Raises: FlowErrors with one finding at the start of the file when there is none."""
    data = _read(path, FLOW_FILE_BYTES_MAX)
    if not data.strip():
        raise _refused(path, rule.FILE_EMPTY, "the file is empty")
    if b"\0" in data:
        raise _refused(path, rule.FILE_NOT_TEXT, f"the file is binary: byte {data.index(0)} is NUL")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(path, rule.FILE_NOT_TEXT, f"the file is not UTF-8: byte {error.start} {error.reason}") from error
    return FlowText(str(path), text, str(Path(path).parent))


def _read(path: str | Path, bytes_max: int) -> bytes:
    """The bytes of a file; its size is looked at before anything is read, and never more is read."""
    try:
        found = Path(path)
        if found.is_dir():
            raise _refused(path, rule.FILE_UNREADABLE, "this is a folder, not a file")
        if not found.exists():
            raise _refused(path, rule.FILE_UNREADABLE, "there is no such file")
        if not found.is_file():
            raise _refused(path, rule.FILE_UNREADABLE, "this is not a regular file")
        with found.open("rb") as file:
            size = file.seek(0, 2)
            if size > bytes_max:
                raise _refused(path, rule.FILE_TOO_LARGE, f"{size} bytes exceed the limit of {bytes_max}")
            file.seek(0)
            return file.read(bytes_max)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(path, rule.FILE_UNREADABLE, f"the file cannot be read: {reason}") from error


def _refused(path: str | Path, broken: rule.Rule, message: str) -> FlowErrors:
    position = Position(file=str(path), line=1, column=1)
    return FlowErrors([Finding(position=position, rule=broken.id, message=message)])
