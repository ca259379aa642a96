"""The log of flowbridge: one JSON object per line for machines, one plain line for people, on standard error.

Only the logger ``flowbridge`` is configured; the root logger belongs to the application. Whoever logs adds the place
as `extra`: ``logger.warning("late", extra={"node": "enrich", "edge": "a/out->b/in"})``.
"""

from __future__ import annotations

import json as json_module
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flowbridge.errors import LocalProtocolError

if TYPE_CHECKING:
    from typing import TextIO

PLACES: Final = ("flow", "node", "edge", "trace_id")
"""The members of `extra` that are shown."""

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure_logging(json: bool, level: int | str = "INFO") -> None:
    """Send what ``flowbridge`` logs to standard error, in one of the two forms; a second call replaces the first.

    Raises: LocalProtocolError for a level that is none.
    """
    number = _level(level)
    logger = logging.getLogger("flowbridge")
    for handler in tuple(logger.handlers):
        if isinstance(handler, _StderrHandler):
            logger.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if json else PlainFormatter())
    logger.addHandler(handler)
    logger.setLevel(number)
    logger.propagate = False  # the root's handlers would write every line again


class JsonFormatter(logging.Formatter):
    """One object per line: ``time``, ``level``, ``logger``, ``message``, and what there is of places and exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, ASCII only, without its end."""
        line = {
            "time": _time(record).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_places(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json_module.dumps(line)


class PlainFormatter(logging.Formatter):
    """``12:00:00.123 warning flowbridge.host: message [node=enrich]``; further lines are indented.

    Control characters are shown as ``\\x1b``: a message may quote data, and data must not command the terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines, without the last end."""
        time = f"{_time(record).astimezone():%H:%M:%S}.{int(record.msecs):03d}"
        text = f"{time} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        places = _places(record)
        if places:
            text += f" [{' '.join(f'{name}={value}' for name, value in places.items())}]"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text).replace("\n", "\n  ")


class _StderrHandler(logging.StreamHandler["TextIO"]):
    """Writes to whatever `sys.stderr` is at that moment, as `logging.lastResort` does."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the parent keeps the stream of the moment it was made
        return sys.stderr


def _level(level: int | str) -> int:
    name = level.upper() if isinstance(level, str) else logging.getLevelName(level)
    if name not in _LEVELS:
        raise LocalProtocolError(f"log level {level!r} is none of {', '.join(_LEVELS).lower()}")
    return int(getattr(logging, name))


def _places(record: logging.LogRecord) -> dict[str, str]:
    values = ((name, getattr(record, name, None)) for name in PLACES)
    return {name: str(value) for name, value in values if value is not None}


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
