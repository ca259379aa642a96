"""Let spin go through the models of shm/model: what is proved, and what must be found wrong.

    python tests/native/model.py

Says so and ends with 0 where spin (Debian: spin) or gcc is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

MODELS: Final = Path(__file__).resolve().parents[2] / "shm" / "model"
PROVED: Final = (
    ("wake", "FENCE"),
    ("wake", "FENCE EVENTFD"),
    ("wake", "FENCE KILL BOUNDED"),
    ("wake", "FENCE KILL BOUNDED EVENTFD"),
    ("reclaim", ""),
    ("reclaim", "STOPPED"),
)
WRONG: Final = (
    ("wake", "", "invalid end state"),
    ("wake", "EVENTFD", "invalid end state"),
    ("wake", "FENCE KILL", "invalid end state"),
    ("wake", "FENCE KILL EVENTFD", "invalid end state"),
    ("reclaim", "STOPPED NO_EPOCH NO_GEN", "assertion violated"),
)


def lacking() -> str | None:
    """What is not installed, or None."""
    return next((f"{tool} is not installed" for tool in ("spin", "gcc") if shutil.which(tool) is None), None)


def verdict(model: str, switches: str) -> tuple[int, str, int]:
    """Errors that spin finds, its first complaint, and the states it saw. Raises: CalledProcessError, RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"-D{switch}" for switch in switches.split()]
        for command in (
            ["spin", *flags, "-a", str(MODELS / f"{model}.pml")],
            ["gcc", "-O2", "-w", "-DSAFETY", "-o", "pan", "pan.c"],
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
        done = subprocess.run(
            [f"{folder}/pan", "-m200000"], cwd=folder, check=False, capture_output=True, text=True, timeout=600
        )
    errors = re.search(r"errors: (\d+)", done.stdout)
    states = re.search(r"(\d+) states, stored", done.stdout)
    if errors is None or states is None or "max search depth too small" in done.stdout:
        raise RuntimeError(f"{model} {switches}: spin did not finish:\n{done.stdout}{done.stderr}")
    first = re.search(r"^pan:\d+: (.*)", done.stdout, re.MULTILINE)
    return int(errors[1]), first[1] if first else "", int(states[1])


def main() -> int:
    reason = lacking()
    if reason is not None:
        print(f"the models are not run: {reason}")
        return 0
    failed = False
    for model, switches in PROVED:
        errors, first, states = verdict(model, switches)
        failed |= errors != 0
        print(f"{model:8} {switches:26} {'holds' if not errors else f'FAILS: {first}'} ({states:,} states)")
    for model, switches, expected in WRONG:
        errors, first, states = verdict(model, switches)
        found = errors != 0 and expected in first
        failed |= not found
        print(f"{model:8} {switches:26} {'is found wrong, as it is' if found else 'IS NOT FOUND WRONG'}: {first}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
