"""Names to implementations: those that are installed, and what is said when one is not."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from flowbridge import registry
from flowbridge.errors import FlowbridgeError
from flowbridge.operator_spec import OperatorSpec
from flowbridge.operators.catalog import BUILTINS
from flowbridge.testing.clock import ManualClock

MINE = OperatorSpec(name="mine", summary="An operator of another package.", factory="somewhere:mine")
WRONG = {"name": "wrong"}


def entry(name: str, attr: str) -> EntryPoint:
    """What an installed package would declare; this file is no package, so it names one that has such values."""
    return EntryPoint(name, f"flowbridge_test_registry:{attr}", "flowbridge.operators")


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> registry.Catalog:
    """A built-in operator and three of an installed package, one of which has the name of the built-in one."""
    module = ModuleType("flowbridge_test_registry")
    vars(module).update(MINE=MINE, WRONG=WRONG)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    installed = {name: entry(name, attr) for name, attr in (("mine", "MINE"), ("wrong", "WRONG"), ("filter", "MINE"))}
    return registry.Catalog({"filter": BUILTINS["filter"]}, installed)


def test_a_catalogue_lists_built_in_and_installed_operators_once(catalog: registry.Catalog) -> None:
    assert catalog.names() == ["filter", "mine", "wrong"]


def test_a_package_cannot_replace_a_built_in_operator(catalog: registry.Catalog) -> None:
    assert catalog.get("filter") is BUILTINS["filter"]


def test_an_installed_operator_is_loaded_when_it_is_asked_for(catalog: registry.Catalog) -> None:
    assert catalog.get("mine") is MINE
    assert catalog.get("mine") is MINE
    assert catalog.get("nobody") is None


def test_an_entry_that_is_no_operator_spec_is_refused_by_name(catalog: registry.Catalog) -> None:
    with pytest.raises(FlowbridgeError, match="operator wrong: flowbridge_test_registry:WRONG is not an OperatorSpec"):
        catalog.get("wrong")


def test_what_this_checkout_has_is_installed() -> None:
    assert "inproc" in registry.transports()
    assert "yaml" in registry.adapters()
    assert list(registry.transports()) == sorted(registry.transports())
    assert registry.adapter().dialect == "yaml"


def test_a_transport_is_new_each_time() -> None:
    async def script() -> None:
        clock = ManualClock()
        first, second = registry.transport("inproc", clock), registry.transport("inproc", clock)
        assert first is not second
        assert first.tier == "inproc"
        await first.aclose()
        await second.aclose()

    asyncio.run(script())


def test_a_name_that_is_not_installed_is_told_what_is() -> None:
    with pytest.raises(FlowbridgeError, match=r"^tier pigeon: not installed; installed: .*inproc"):
        registry.transport("pigeon", ManualClock())
    with pytest.raises(FlowbridgeError, match=r"^dialect toml: not installed; installed: .*yaml"):
        registry.adapter("toml")


def test_every_built_in_operator_can_be_had_under_its_own_name() -> None:
    catalog = registry.catalog()
    for name in BUILTINS:
        spec = catalog.get(name)
        assert spec is not None
        assert spec.name == name
    assert set(BUILTINS) <= set(catalog.names())


def test_a_broken_package_is_named_with_what_it_raised() -> None:
    entry = EntryPoint("broken", "no_such_module_at_all:SPEC", "flowbridge.operators")
    with pytest.raises(FlowbridgeError, match=r"operator broken: no_such_module_at_all:SPEC .* ModuleNotFoundError"):
        registry.Catalog({}, {"broken": entry}).get("broken")
