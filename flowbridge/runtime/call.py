"""One call of an operator: cut off at its deadline, repeated by class of error."""

from __future__ import annotations

import asyncio
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import flowbridge
from flowbridge.emit import Emit
from flowbridge.envelope import NO_DEADLINE
from flowbridge.errors import DeadlineExceeded, Effect, FlowbridgeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbridge.contracts import Clock
    from flowbridge.plan import RetryPolicy


class _Nothing:
    pass


NOTHING: Final[Any] = _Nothing()
"""The result of a call that was given up or left out."""

SPECIAL: Final[frozenset[type]] = frozenset({type(None), Emit, _Nothing})
"""Types of results that are not simply a value for port ``out``."""

_HOME: Final = str(Path(flowbridge.__file__).parent)
_INSTALLED: Final = (sysconfig.get_path("stdlib"), "site-packages", "dist-packages")


async def until_deadline(work: Awaitable[Any], deadline_ns: int, clock: Clock, where: str) -> Any:
    """Await `work`, cancelling it at the deadline.

    Raises: DeadlineExceeded with effect MAYBE, because the work had begun; CancelledError when the task itself was
    cancelled, even if `work` kept that to itself; RuntimeError when something that `work` waited for was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None, "operators run in a task"
    cancelled_before = task.cancelling()
    fired = False

    def cut() -> None:
        nonlocal fired
        fired = True
        task.cancel()

    alarm = None if deadline_ns == NO_DEADLINE else clock.call_at(deadline_ns, cut)
    try:
        result = await work
    except asyncio.CancelledError as error:
        if fired and task.uncancel() <= cancelled_before:
            raise DeadlineExceeded(where, deadline_ns, clock.now_ns(), Effect.MAYBE) from None
        if task.cancelling():
            raise
        raise RuntimeError("what it waited for was cancelled") from error
    except BaseException:
        if fired:
            task.uncancel()
        raise
    finally:
        if alarm is not None:
            alarm.cancel()
    if fired:
        task.uncancel()
    if task.cancelling():
        raise asyncio.CancelledError
    return result


def in_thread(handler: Callable[[Any], Any], value: Any) -> Any:
    """Call from a worker thread. A future cannot carry a StopIteration: whoever awaits it would wait for ever."""
    try:
        return handler(value)
    except StopIteration as error:
        raise RuntimeError("it raised StopIteration") from error


def retries(error: BaseException, policy: RetryPolicy) -> bool:
    """Whether the policy names this error: its class, or one it derives from."""
    if not isinstance(error, Exception):
        return False
    return not policy.on or any(cls.__name__ in policy.on for cls in type(error).__mro__)


def retry_delay_ns(policy: RetryPolicy, attempt: int) -> int:
    """The wait before attempt 1, 2, ...: it doubles."""
    return policy.delay_ns << min(attempt - 1, 20)


def said(error: BaseException) -> str:
    """An error in one line: its class, what it says, and the line of the user's own code that it came from."""
    text = str(error)
    # Our own messages may show a text with a caret below; their first line says it all.
    text = text.partition("\n")[0] if isinstance(error, FlowbridgeError) else " ".join(text.split())
    said_at = f" (at {place})" if (place := _raised_at(error)) else ""
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__) + said_at


def _raised_at(error: BaseException) -> str:
    """``file:line in function`` of the innermost frame that is neither ours nor of an installed package."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        installed = any(part in frame.filename for part in _INSTALLED)
        if not installed and not frame.filename.startswith(("<", _HOME)):
            found = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return found
