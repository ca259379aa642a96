"""How a clause says what it found."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

E = TypeVar("E", bound=BaseException)


class ClauseFailed(AssertionError):
    """A guarantee does not hold."""


class Caught(Generic[E]):
    """The error that `raises` waited for, once its block is over."""

    error: E


def equal(found: object, wanted: object, what: str) -> None:
    """Raises: ClauseFailed unless both are equal."""
    if found != wanted:
        raise ClauseFailed(f"{what}: {found!r}, not {wanted!r}")


def holds(truth: object, what: str) -> None:
    """Raises: ClauseFailed unless it is true."""
    if not truth:
        raise ClauseFailed(what)


@contextmanager
def raises(kind: type[E], what: str) -> Generator[Caught[E]]:
    """Raises: ClauseFailed unless the block raises such an error."""
    caught: Caught[E] = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
        return
    raise ClauseFailed(f"{what}: no {kind.__name__}")
