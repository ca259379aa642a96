"""What the built-in operators raise, and how foreign exceptions become it."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any, Final

from flowbridge.errors import FlowbridgeError, OperatorError, SchemaMismatchError

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

LOG: Final = logging.getLogger("flowbridge.operator")


class ConfigError(FlowbridgeError):
    """A value under `with:` cannot be used; whoever constructs the operator knows the node."""


class ExpressionError(ConfigError):
    """An expression is wrong, or does not fit the batch; `column` counts the characters of `text` from 1, 0 is none."""

    def __init__(self, text: str, message: str, column: int = 0) -> None:
        self.text: Final = text
        self.column: Final = column
        where = f", column {column}" if column else ""
        shown = text if len(text) <= 120 else text[:117] + "..."
        pointer = f"\n    {shown}\n    {' ' * (column - 1)}^" if 0 < column <= len(shown) else ""
        super().__init__(f"expression {shown!r}{where}: {message}{pointer}")


_REASONS: Final = {
    errno.ENOENT: "there is no such file",
    errno.EISDIR: "is a directory, not a file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a part of the path is not a folder",
}


def reason(error: BaseException) -> str:
    """Why a file operation failed, in words, without the traceback's noise."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _REASONS:
        return _REASONS[number]
    if isinstance(error, KeyError) and error.args:  # str() of a KeyError is quoted
        return str(error.args[0])
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said or type(error).__name__


def file_errors(node: str, path: str, doing: str) -> AbstractContextManager[None]:
    """Turn whatever the file system or Arrow raises inside into an OperatorError that names node and file."""
    from contextlib import contextmanager

    import pyarrow as pa

    @contextmanager
    def guard() -> Generator[None]:
        try:
            yield
        except FlowbridgeError:
            raise
        except (OSError, pa.ArrowException, UnicodeError) as error:
            raise OperatorError(node, f"cannot {doing} {path}: {reason(error)}") from error

    return guard()


def not_a_batch(node: str, port: str, value: Any) -> SchemaMismatchError:
    """The error for a value that should have been a record batch."""
    return SchemaMismatchError(
        node, f"expects Arrow record batches (pyarrow.RecordBatch), not {type(value).__name__}", port=port
    )


def did_you_mean(word: str, known: list[str]) -> str:
    """A closing hint ``(did you mean x?)``, or what there is, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]}?)"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f" (there are {shown})" if known else ""
