"""The modules that stand beside the tests are imported by their plain names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

for folder in (".", "unit", "integration"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

# A change is judged by the examples that the last one was; with FLOWBRIDGE_SEEDS the search goes on, by chance.
settings.register_profile("repeatable", derandomize=True)
if "FLOWBRIDGE_SEEDS" not in os.environ:
    settings.load_profile("repeatable")

FIRST = ("test_basedpyright_finds_nothing", "test_mypy_finds_nothing")
"""A minute or more of one core each: begun last, the other workers would be idle beside them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.name not in FIRST)


@pytest.fixture(params=["aioquic", "qh3"])
def quic_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on both QUIC engines, but for what one cannot do, which its mark `aioquic` says."""
    name: str = request.param
    only = request.node.get_closest_marker("aioquic")
    if name == "qh3":
        if only is not None:
            pytest.skip(only.args[0])
        pytest.importorskip("qh3", reason="qh3 is not installed")
    monkeypatch.setattr("quic_link.engine_name", name)
    return name
