"""Files that are no flow, and plan documents by their suffix."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flowbridge import loading
from flowbridge.adapters.flow import YamlFlowAdapter
from flowbridge.codec.plan import plan_to_cbor, plan_to_json
from flowbridge.errors import FlowErrors, PlanError
from flowbridge.limits import FLOW_FILE_BYTES_MAX
from flowbridge.registry import Catalog

if TYPE_CHECKING:
    from pathlib import Path

    from flowbridge.plan import Plan

_CATALOG = Catalog({}, {})
_WHOLE = """\
flowbridge: 1
name: flights
topics: {"alerts.>": {priority: high}, "*.get": {queue: {policy: error}}}
nodes:
  - {id: a, operator: 'python:m:f'}
  - {id: b, operator: 'python:m:g', inputs: {in: a/out}}
"""


def compiled(text: str) -> Plan:
    return YamlFlowAdapter(_CATALOG, {}).compile(loading.FlowText("f.yaml", text, "folder"))


def refused(path: Path) -> str:
    with pytest.raises(FlowErrors) as caught:
        loading.read_flow(path)
    [finding] = caught.value.findings
    assert (finding.position.line, finding.position.column) == (1, 1)
    assert finding.position.file == str(path)
    return f"{finding.rule} {finding.message}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == "FB001 there is no such file"
    assert refused(tmp_path) == "FB001 this is a folder, not a file"
    assert refused(tmp_path / "a\0b").startswith("FB001 ")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "FB001 this is not a regular file"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b" \n")
    assert refused(file) == "FB004 the file is empty"
    file.write_bytes(b"\x7fELF\0\0")
    assert refused(file) == "FB003 the file is binary: byte 4 is NUL"
    file.write_bytes(b"name: \xff\n")
    assert refused(file).startswith("FB003 the file is not UTF-8: byte 6 ")


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with file.open("wb") as opened:
        opened.truncate(100 * 1024 * 1024)  # a sparse file: reading it would find NUL characters
    assert refused(file) == f"FB002 {100 * 1024 * 1024} bytes exceed the limit of {FLOW_FILE_BYTES_MAX}"


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + _WHOLE.encode())
    source = loading.read_flow(file)
    assert (source.text, source.base_dir) == (_WHOLE, str(tmp_path))
    assert YamlFlowAdapter(_CATALOG, {}).compile(source).base_dir == str(tmp_path)


def test_plan_documents_are_loaded_by_their_suffix(tmp_path: Path) -> None:
    plan = compiled(_WHOLE)
    (tmp_path / "p.json").write_text(plan_to_json(plan))
    (tmp_path / "p.cbor").write_bytes(plan_to_cbor(plan))
    # The folder of the flow is named from where the plan lies.
    moved = replace(plan, base_dir=str(tmp_path / "folder"))
    assert loading.load(tmp_path / "p.json") == moved == loading.load(str(tmp_path / "p.cbor"))
    assert list(loading.load(tmp_path / "p.json").topics) == ["alerts.>", "*.get"]
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(PlanError, match=r"p\.json: plan is not JSON"):
        loading.load(tmp_path / "p.json")


def test_a_flow_file_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbridge.registry.catalog", lambda: _CATALOG)
    (tmp_path / "f.yaml").write_text(_WHOLE)
    assert loading.load(tmp_path / "f.yaml").digest == compiled(_WHOLE).digest
