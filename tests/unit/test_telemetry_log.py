"""The two forms of the log, and that only flowbridge's own logger is touched."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from flowbridge.errors import LocalProtocolError
from flowbridge.telemetry.log import JsonFormatter, PlainFormatter, configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    logger = logging.getLogger("flowbridge")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def record_of(message: str, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("flowbridge.host", logging.WARNING, __file__, 1, message, (), None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    record.__dict__.update(extra)
    return record


def test_a_json_line_has_time_level_logger_message_and_places() -> None:
    line = JsonFormatter().format(record_of("slow", flow="f", node="n", edge="a/out->n/in", trace_id="4bf9"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "level": "warning",
        "logger": "flowbridge.host",
        "message": "slow",
        "flow": "f",
        "node": "n",
        "edge": "a/out->n/in",
        "trace_id": "4bf9",
    }


def test_json_stays_one_ascii_line_whatever_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True, level="debug")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("flowbridge.x").exception("gr\u00fc\u00df\ndich\u2028 %s", "\x1b[2J")
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    assert written.err.isascii()
    line = json.loads(written.err)
    assert line["message"] == "gr\u00fc\u00df\ndich\u2028 \x1b[2J"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("second")


def test_the_plain_form_shows_the_place_and_no_control_characters() -> None:
    line = PlainFormatter().format(record_of("one\ntwo \x1b[2J\r", node="n"))
    assert line.endswith(" warning flowbridge.host: one\n  two \\x1b[2J\\x0d [node=n]")


def test_a_second_call_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True, level="INFO")
    configure_logging(json=False, level=logging.WARNING)
    logging.getLogger("flowbridge.x").info("not shown")
    logging.getLogger("flowbridge.x").warning("shown")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("warning flowbridge.x: shown")


def test_the_root_logger_and_foreign_handlers_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    foreign = logging.NullHandler()
    logging.getLogger("flowbridge").addHandler(foreign)
    configure_logging(json=False, level="info")
    assert (root.handlers, root.level) == before
    assert foreign in logging.getLogger("flowbridge").handlers
    logging.getLogger("other").debug("nothing")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("level", ["loud", 17, ""])
def test_a_level_that_is_none_is_named(level: int | str) -> None:
    with pytest.raises(LocalProtocolError, match=rf"{level!r} is none of debug, info"):
        configure_logging(json=False, level=level)
