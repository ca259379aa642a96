"""Build stress.c under each sanitizer and run it.

    python tests/native/sanitize.py [--rounds 200000] [--wake-rounds 10000000] [--with thread,address,none]

`--wake-rounds` adds a run without a sanitizer that looks for lost wake-ups alone. gcc's ThreadSanitizer does not see
fences; what they order is a look at a wait word, never data, so it finds no race that is not there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
FLAGS: Final = {
    "thread": ["-O1", "-g", "-fsanitize=thread", "-Wno-tsan"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "none": ["-O2"],
}
OPTIONS: Final = {
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
    "ASAN_OPTIONS": "detect_leaks=0",  # leaks cannot be looked for under a debugger or in some containers
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def lacking(sanitizer: str) -> str | None:
    """Why this machine cannot build and run with a sanitizer, or None."""
    if shutil.which("gcc") is None:
        return "there is no gcc"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        program = Path(folder) / "empty"
        for command in (["gcc", *FLAGS[sanitizer], str(source), "-o", str(program)], [str(program)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"gcc has no {sanitizer} sanitizer that runs here: {done.stderr.strip().splitlines()[-1:]}"
    return None


def build(sanitizer: str, program: Path, headers: Path = HERE.parents[1] / "shm") -> None:
    """Compile stress.c over the headers of the ring. Raises: CalledProcessError."""
    folders = ["-I", str(headers), "-I", str(HERE)]
    warnings = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command = ["gcc", *warnings, *FLAGS[sanitizer], *folders, str(HERE / "stress.c"), "-o", str(program), "-pthread"]
    subprocess.run(command, check=True)


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [program, *arguments], env={**os.environ, **OPTIONS}, capture_output=True, text=True, check=False, timeout=3600
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--wake-rounds", type=int, default=0)
    parser.add_argument("--with", dest="sanitizers", default="thread,address")
    options = parser.parse_args()
    jobs: list[tuple[str, tuple[str, ...]]] = [
        (sanitizer, ("--rounds", str(options.rounds))) for sanitizer in options.sanitizers.split(",")
    ]
    if options.wake_rounds:
        jobs.append(("none", ("--only", "wake", "--rounds", str(options.wake_rounds))))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for sanitizer, arguments in jobs:
            reason = lacking(sanitizer)
            if reason is not None:
                print(f"{sanitizer}: skipped, {reason}")
                continue
            program = Path(folder) / sanitizer
            build(sanitizer, program)
            done = run(program, *arguments)
            failed |= done.returncode != 0
            print(f"{sanitizer}: {'failed' if done.returncode else 'clean'}\n{done.stdout}{done.stderr}", end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
