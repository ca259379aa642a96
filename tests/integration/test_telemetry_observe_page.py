"""The how-to page: its Python runs, its requests are answered, its metric names exist."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
from pathlib import Path
from urllib.request import urlopen

import pytest

from flowbridge.report import EdgeReport, RunReport
from flowbridge.telemetry.names import METRICS
from flowbridge.telemetry.serve import MetricsServer
from flowbridge.time.ledger import EdgeBooks

PAGE = (Path(__file__).parents[2] / "docs/how-to/observe.md").read_text()


def report_of() -> RunReport:
    return RunReport(
        "flights", "d", "running", 1.0, edges={"a/out->b/in": EdgeReport("a/out->b/in", "inproc", EdgeBooks())}
    )


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks_of("python"))
def test_the_python_of_the_page_runs(block: str) -> None:
    logger = logging.getLogger("flowbridge")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    code = compile(block, "observe.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> None:
        result = eval(code, {"asyncio": asyncio, "report": report_of})
        if inspect.isawaitable(result):
            await result

    try:
        asyncio.run(run())
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_the_requests_of_the_page_are_answered() -> None:
    paths = re.findall(r"http://127\.0\.0\.1:9464(/[^'\s]*)", PAGE)
    assert len(paths) == 4
    with MetricsServer(0, report_of) as server:
        for path in paths:
            with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as response:
                assert response.status == 200
                assert response.read()


def test_the_queries_of_the_page_name_metrics_that_exist() -> None:
    known = {metric.prometheus for metric in METRICS} | {
        f"{m.prometheus}_bucket" for m in METRICS if m.kind == "histogram"
    }
    found = set(re.findall(r"\bflowbridge_[a-z_]+", PAGE))
    assert found
    assert found <= known
