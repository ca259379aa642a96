"""flowbridge: a tiered transport fabric for dataflow graphs, with deadlines, priority and credit on every hop.

These names are the public face, with `flowbridge.errors`, `flowbridge.contracts`, `flowbridge.plan` and
`flowbridge.testing` behind them. Each loads on first use: `import flowbridge` loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowbridge.contracts import (
        Clock,
        DataPort,
        DataSink,
        DataSource,
        EventBus,
        FlowAdapter,
        Lease,
        Operator,
        OperatorContext,
        Outputs,
        Transport,
    )
    from flowbridge.emit import Emit
    from flowbridge.envelope import Envelope, Gap, Priority, TraceContext
    from flowbridge.errors import (
        AuthError,
        BrokenError,
        BusyError,
        ClosedError,
        CodecError,
        DeadlineExceeded,
        DecodeError,
        EncodeError,
        EndOfStream,
        FlowbridgeError,
        FlowErrors,
        LocalProtocolError,
        MissingExtraError,
        NativeUnavailableError,
        NoResponderError,
        OperatorError,
        OperatorLoadError,
        OverloadError,
        PlanError,
        ProtocolError,
        RemoteProtocolError,
        ResourceError,
        SchemaMismatchError,
        ShmFullError,
        WouldBlock,
    )
    from flowbridge.finding import Finding
    from flowbridge.host import Host
    from flowbridge.loading import load
    from flowbridge.plan import Plan, Policy, Qos, Tier
    from flowbridge.report import RunReport
    from flowbridge.runtime.flow import RunningFlow
    from flowbridge.runtime.runner import NodeRunner
    from flowbridge.time.manager import TimeManager

__version__: Final = "0.1.0"

__all__ = [
    "AuthError",
    "BrokenError",
    "BusyError",
    "Clock",
    "ClosedError",
    "CodecError",
    "DataPort",
    "DataSink",
    "DataSource",
    "DeadlineExceeded",
    "DecodeError",
    "Emit",
    "EncodeError",
    "EndOfStream",
    "Envelope",
    "EventBus",
    "Finding",
    "FlowAdapter",
    "FlowErrors",
    "FlowbridgeError",
    "Gap",
    "Host",
    "Lease",
    "LocalProtocolError",
    "MissingExtraError",
    "NativeUnavailableError",
    "NoResponderError",
    "NodeRunner",
    "Operator",
    "OperatorContext",
    "OperatorError",
    "OperatorLoadError",
    "Outputs",
    "OverloadError",
    "Plan",
    "PlanError",
    "Policy",
    "Priority",
    "ProtocolError",
    "Qos",
    "RemoteProtocolError",
    "ResourceError",
    "RunReport",
    "RunningFlow",
    "SchemaMismatchError",
    "ShmFullError",
    "Tier",
    "TimeManager",
    "TraceContext",
    "Transport",
    "WouldBlock",
    "__version__",
    "load",
]

_HOMES: Final = {
    "contracts": (
        "Clock DataPort DataSink DataSource EventBus FlowAdapter Lease Operator OperatorContext Outputs Transport"
    ),
    "emit": "Emit",
    "envelope": "Envelope Gap Priority TraceContext",
    "errors": (
        "AuthError BrokenError BusyError ClosedError CodecError DeadlineExceeded DecodeError EncodeError EndOfStream "
        "FlowErrors FlowbridgeError LocalProtocolError MissingExtraError NativeUnavailableError NoResponderError "
        "OperatorError OperatorLoadError OverloadError PlanError ProtocolError RemoteProtocolError ResourceError "
        "SchemaMismatchError ShmFullError WouldBlock"
    ),
    "finding": "Finding",
    "host": "Host",
    "loading": "load",
    "plan": "Plan Policy Qos Tier",
    "report": "RunReport",
    "runtime.flow": "RunningFlow",
    "runtime.runner": "NodeRunner",
    "time.manager": "TimeManager",
}
_HOME_OF: Final = {name: f"flowbridge.{home}" for home, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a checker that saw this would accept any name at all

    def __getattr__(name: str) -> object:
        """Load a public name from its home, once."""
        if name not in _HOME_OF:
            raise AttributeError(f"module 'flowbridge' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        """What may be used, loaded or not."""
        return sorted({*globals(), *__all__})
