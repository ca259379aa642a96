"""Whether a node that stopped may start again, and after how long.

Rules. At most `max` starts within any `window_ns`; the delay doubles with each start inside the window, from `delay_ns`
up to `delay_max_ns`. (The words are those of systemd and Docker.)
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from flowbridge.plan import RestartWhen

if TYPE_CHECKING:
    from flowbridge.plan import RestartPolicy


class RestartBudget:
    """The restarts of one node."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._starts: deque[int] = deque()

    def ask(self, *, failed: bool, now_ns: int) -> int | None:
        """Nanoseconds to wait before starting again, or None when it is to stay stopped.

        Asking counts as a start.
        """
        policy = self._policy
        if policy.when is RestartWhen.NEVER or (policy.when is RestartWhen.ON_FAILURE and not failed):
            return None
        while self._starts and self._starts[0] <= now_ns - policy.window_ns:
            self._starts.popleft()
        if len(self._starts) >= policy.max:
            return None
        delay_ns = min(policy.delay_ns << min(len(self._starts), 30), policy.delay_max_ns)
        self._starts.append(now_ns + delay_ns)
        return delay_ns
