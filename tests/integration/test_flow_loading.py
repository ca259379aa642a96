"""What cannot be loaded or placed: every reason in one report, each with its place in the text."""

# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from flow_scene import Kept, compiled, flow_text, numbers, run, values

from flowbridge.errors import ClosedError, FlowbridgeError
from flowbridge.host import Host
from flowbridge.testing.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path


def refusal(text: str, operators: dict[str, Any] | None = None, base_dir: str = ".") -> list[str]:
    """The lines of the error that starting a flow raises."""

    async def main() -> str:
        async with Host(operators=operators or {}, clock=ManualClock()) as host:
            with pytest.raises(FlowbridgeError) as caught:
                await host.start(compiled(text, base_dir))
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return str(caught.value)

    return asyncio.run(main()).splitlines()


class Picky:
    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"size must not be negative: {size}")

    def process(self, value: int) -> None: ...


def test_every_node_that_cannot_be_loaded_is_in_one_report(tmp_path: Path) -> None:
    (tmp_path / "fb_syntax.py").write_text("def broken(:\n")
    (tmp_path / "fb_raises.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "fb_exits.py").write_text("import sys\nsys.exit(4)\n")
    (tmp_path / "fb_fine.py").write_text("def one(value):\n    return value\nnumber = 5\n")
    (tmp_path / "fb_needs.py").write_text("import fb_no_such_thing\n")
    cases = {
        "python:fb_no_such_module:f": "fb_no_such_module",
        "python:fb_fine:two": "fb_fine has no two; it has number, one",
        "python:./fb_fine.py:two": "has no two",
        "python:fb_syntax:f": "SyntaxError",
        "python:./fb_syntax.py:f": "SyntaxError",
        "python:fb_raises:f": "RuntimeError: at import",
        "python:./fb_raises.py:f": "RuntimeError: at import",
        "python:fb_exits:f": "SystemExit: 4",
        "python:./missing.py:f": "missing.py: no such file",
        "python:fb_needs:f": "fb_no_such_thing",
        "python:fb_fine:number": "is neither a function nor an operator class",
        "host:unknown": "the host has no operator unknown; it has picky",
        "python:fb_fine:one.real": "has no one.real",
    }
    nodes = ["id: a, operator: sequence, with: {count: 3}"]
    nodes += [f'id: n{i}, operator: "{ref}", inputs: {{in: a/out}}' for i, ref in enumerate(cases)]
    nodes += [
        "id: p, operator: host:picky, inputs: {in: a/out}, with: {size: -1}",
        "id: q, operator: host:picky, inputs: {in: a/out}, with: {sice: 1}",
        "id: r, operator: host:picky, inputs: {in: a/out}",
        "id: s, operator: host:picky, with: {size: 1}",
        "id: fine, operator: python:fb_fine:one, inputs: {in: a/out}",
    ]
    said = {
        **{f"n{i}": text for i, text in enumerate(cases.values())},
        "p": "refused its configuration: size must not be negative: -1",
        "q": "has no setting 'sice'; it takes size",
        "r": "size",
        "s": "has no inputs, but its class has no `produce`",
    }
    found = refusal(flow_text(*nodes), {"picky": Picky}, str(tmp_path))
    assert len(found) == len(said), found
    for line, (index, (node, text)) in zip(found, enumerate(said.items()), strict=True):
        assert line.startswith(f"flow.yaml:{index + 5}:"), line
        assert f"node {node}: " in line
        assert text in line


def test_a_host_without_an_address_is_named() -> None:
    text = flow_text(
        "id: a, operator: host:source, outputs: {out: {type: json}}",
        'id: b, operator: "null", inputs: {in: a/out}, place: {host: edge-1}',
        "id: c, operator: python:fb_no_such_module:f, inputs: {in: a/out}",
    )
    found = refusal(text, {"source": numbers(1), "keep": Kept()})
    assert len(found) == 2
    assert found[0].startswith("flow.yaml:5:")
    assert "node b is placed in host edge-1, which has no address" in found[0]
    assert "fb_no_such_module" in found[1]


def test_a_place_counts_even_when_no_route_leads_there() -> None:
    found = refusal(
        flow_text("id: a, operator: host:keep, inputs: {tick: timer/1s}, place: {process: worker}"), {"keep": Kept()}
    )
    assert len(found) == 1
    assert "process worker" in found[0]


@pytest.mark.parametrize("tier", ["ipc", "quic"])
def test_a_route_goes_over_the_tier_that_it_asks_for_also_where_a_nearer_one_would_do(tier: str) -> None:
    text = flow_text(
        "id: a, operator: host:source, outputs: {out: {type: json}}",
        f"id: b, operator: host:keep, inputs: {{in: {{from: a/out, tier: {tier}}}}}",
    )
    kept = Kept()

    async def main() -> None:
        async with Host(operators={"source": numbers(5), "keep": kept}) as host:
            report = await host.run(compiled(text))
            (edge,) = report.edges.values()
            assert (edge.tier, edge.books.delivered) == (tier, 5)

    asyncio.run(main())
    assert kept.values == [0, 1, 2, 3, 4]


def test_a_flow_that_was_refused_leaves_no_subscription_and_no_setting_behind() -> None:
    from flowbridge.envelope import Envelope

    async def main() -> None:
        async with Host(operators={"keep": Kept()}, clock=ManualClock()) as host:
            text = flow_text(
                "id: a, operator: host:keep, inputs: {in: bus/t}",
                "id: b, operator: host:missing, inputs: {in: bus/t}",
            )
            with pytest.raises(FlowbridgeError):
                await host.start(compiled(text))
            assert await host.bus.publish("t", Envelope(1)) == 0

    asyncio.run(main())


def test_the_command_line_says_so_with_exit_code_1(tmp_path: Path) -> None:
    text = flow_text(
        "id: a, operator: sequence, with: {count: 3, batch_rows: 2}",
        'id: b, operator: "null", inputs: {in: a/out}, place: {host: edge-1}',
    )
    (tmp_path / "flow.yaml").write_text(text)
    command = [
        sys.executable,
        "-c",
        "import sys; from flowbridge.cli import main; sys.exit(main())",
        "run",
        "flow.yaml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "give one with --node edge-1=quic://HOST:PORT" in done.stderr
    assert "flow.yaml:5:" in done.stderr
    assert "Traceback" not in done.stderr


# --- modules --------------------------------------------------------------------------------------------------------


def test_two_folders_with_modules_of_one_name_are_never_mixed_up(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fb_same_name.py").write_text(f"def f(value):\n    return {value}\n")

    def text(ref: str) -> str:
        return flow_text(
            "id: a, operator: host:source",
            f'id: w, operator: "{ref}", inputs: {{in: a/out}}',
            "id: k, operator: host:keep, inputs: {in: w/out}",
        )

    for ref in ("python:./fb_same_name.py:f", "python:fb_same_name:f"):
        kept = Kept()
        run(text(ref), {"source": values(0), "keep": kept}, base_dir=str(tmp_path / "one"))
        assert kept.values == [1]
    kept = Kept()
    run(text("python:./fb_same_name.py:f"), {"source": values(0), "keep": kept}, base_dir=str(tmp_path / "two"))
    assert kept.values == [2]
    (found,) = refusal(
        text("python:fb_same_name:f"), {"source": values(0), "keep": kept}, base_dir=str(tmp_path / "two")
    )
    assert "is loaded from" in found
    assert "python:./fb_same_name.py:" in found


def test_loading_leaves_the_search_path_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "fb_path_module.py").write_text("def f(value):\n    return value\n")
    before = list(sys.path)
    kept = Kept()
    text = flow_text(
        "id: a, operator: host:source",
        "id: w, operator: python:fb_path_module:f, inputs: {in: a/out}",
        "id: k, operator: host:keep, inputs: {in: w/out}",
    )
    run(text, {"source": values(7), "keep": kept}, base_dir=str(tmp_path))
    assert kept.values == [7]
    assert sys.path == before


# --- hosts ----------------------------------------------------------------------------------------------------------


def test_a_host_that_is_not_open_says_so() -> None:
    plan = compiled(flow_text("id: a, operator: host:source"))

    async def main() -> None:
        host = Host(operators={"source": numbers(1)}, clock=ManualClock())
        with pytest.raises(ClosedError, match="async with Host"):
            await host.start(plan)
        with pytest.raises(ClosedError, match="async with Host"):
            await host.run(plan)
        async with host:
            assert (await host.run(plan)).status == "done"
        with pytest.raises(ClosedError, match="async with Host"):
            await host.start(plan)
        await host.aclose()
        async with host:  # a host may be opened again
            assert (await host.run(plan)).status == "done"

    asyncio.run(main())


def test_two_flows_of_one_host_keep_their_own_books_and_share_the_bus() -> None:
    async def main() -> None:
        from flow_scene import WorkClock, balanced, to_end

        clock, kept = WorkClock(), Kept()
        sender = flow_text("id: a, operator: host:source, outputs: {out: {topic: t.x}}")
        taker = flow_text("id: k, operator: host:keep, inputs: {in: bus/t.*}")
        operators = {"source": numbers(10), "keep": kept}
        async with Host(operators=operators, clock=clock) as host:
            first = await host.start(compiled(taker))
            second = await host.start(compiled(taker))
            sending = await host.start(compiled(sender))
            assert (await to_end(sending, clock)).status == "done"
            for flow in (first, second):
                flow.drain()
                report = await to_end(flow, clock)
                balanced(report)
                (edge,) = report.edges.values()
                assert edge.books.sent == edge.books.delivered == 10
            assert sorted(kept.values) == sorted([*range(10)] * 2)
            third = await host.start(compiled(taker))
            assert next(iter(third.report().edges.values())).books.sent == 0, "every run has books of its own"
            third.drain()
            await to_end(third, clock)

    asyncio.run(main())


def test_an_operator_class_in_two_flows_and_two_nodes_has_one_instance_each() -> None:
    class Count:
        made: int = 0

        def __init__(self) -> None:
            Count.made += 1
            self.seen = 0

        def process(self, value: int) -> int:
            self.seen += 1
            return self.seen

    async def main() -> None:
        from flow_scene import WorkClock, to_end

        clock = WorkClock()
        first, second = Kept(), Kept()
        text = flow_text(
            "id: a, operator: host:source",
            "id: c, operator: host:count, inputs: {in: a/out}",
            "id: d, operator: host:count, inputs: {in: c/out}",
            "id: k, operator: host:keep, inputs: {in: d/out}",
        )
        async with Host(operators={"source": numbers(5), "count": Count, "keep": first}, clock=clock) as host:
            flow = await host.start(compiled(text))
            other = await host.start(compiled(text.replace("host:keep", "host:keep").replace("name: test", "name: u")))
            for running in (flow, other):
                assert (await to_end(running, clock)).status == "done"
        assert sorted(first.values) == sorted([1, 2, 3, 4, 5] * 2)
        assert second.values == []
        assert Count.made == 4

    asyncio.run(main())


def test_a_host_forgets_flows_that_have_ended() -> None:
    async def main() -> None:
        async with Host(operators={"source": numbers(1)}, clock=ManualClock()) as host:
            plan = compiled(flow_text("id: a, operator: host:source"))
            for _ in range(20):
                await host.run(plan)
            assert len(host._flows) <= 1

    asyncio.run(main())
