"""``flowbridge compile``: the plan of a flow, as JSON or CBOR."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flowbridge.cli import output
from flowbridge.cli.flow_file import FlowArgument, JsonOption, load_plan
from flowbridge.cli.units import size_text


def compile_flow(
    flow: FlowArgument,
    target: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to: .cbor writes CBOR, - is stdout.")
    ] = "-",
    json: JsonOption = False,
) -> None:
    """Compile a flow into a plan.

    The plan has every default decided, and a digest.
    On stdout the plan is JSON. With --json and a file, the document says what was written.
    """
    plan = load_plan(flow)
    if target == "-":  # where it will lie is not known
        plan = replace(plan, base_dir=os.path.abspath(plan.base_dir))
    from flowbridge.codec.plan import plan_to_cbor, plan_to_json

    if target == "-":
        sys.stdout.write(plan_to_json(plan).rstrip("\n") + "\n")
        return
    path = Path(target)
    plan = replace(plan, base_dir=os.path.relpath(plan.base_dir, path.parent))
    data = plan_to_cbor(plan) if path.suffix == ".cbor" else (plan_to_json(plan).rstrip("\n") + "\n").encode()
    path.write_bytes(data)
    if json:
        output.print_json({"flow": plan.name, "digest": plan.digest, "file": target, "bytes": len(data)})
    else:
        output.say(f"{target}: {plan.name} {plan.digest}, {size_text(len(data))}")
