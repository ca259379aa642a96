"""From what a queue says, and what it leaves to the defaults, to the QoS of a route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowbridge.adapters import rule
from flowbridge.adapters.syntax import POLICIES
from flowbridge.envelope import Priority
from flowbridge.limits import QUEUE_ITEMS_MAX
from flowbridge.plan import Policy, Qos

if TYPE_CHECKING:
    from flowbridge.adapters.collect import Findings, Mark
    from flowbridge.adapters.syntax import Queue

_LATEST_ITEMS: Final = 1


def queue_qos(queue: Queue | None, base: Qos, mark: Mark, findings: Findings) -> Qos:
    """`base` with what `queue` says. Watermarks of `base` hold only as long as its size does."""
    if queue is None:
        return base
    policy = POLICIES[queue.policy] if queue.policy is not None else base.policy
    size = queue.size
    if size is None:
        size = _LATEST_ITEMS if policy is Policy.LATEST else base.capacity_items
        if policy is not Policy.LATEST and base.policy is Policy.LATEST:
            size = Qos().capacity_items
    elif policy is Policy.LATEST and size != _LATEST_ITEMS:
        findings.add(rule.BAD_VALUE, mark, f"queue: policy latest has one place, not {size}", "leave size out")
        size = _LATEST_ITEMS
    elif size > QUEUE_ITEMS_MAX:
        findings.add(rule.LIMIT, mark, f"queue: size {size} exceeds the limit of {QUEUE_ITEMS_MAX}")
        size = QUEUE_ITEMS_MAX
    same = size == base.capacity_items
    high = queue.high or (base.high_items if same else size)
    low = (
        queue.low if queue.low is not None else base.low_items if same and queue.high is None else min(size // 2, high)
    )
    if not low <= high <= size:
        message = f"queue: low {low}, high {high}, size {size} do not rise"
        findings.add(rule.BAD_VALUE, mark, message, "low <= high <= size is needed")
        high, low = size, size // 2
    return Qos(
        policy=policy,
        capacity_items=size,
        capacity_bytes=queue.bytes if queue.bytes is not None else base.capacity_bytes,
        high_items=high,
        low_items=low,
        priority=base.priority,
        deadline_ns=base.deadline_ns,
    )


def priority_of(word: str | None) -> Priority | None:
    """The priority that a word means; None without one."""
    return None if word is None else Priority.from_word(word)
