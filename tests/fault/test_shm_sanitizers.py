"""The C core of the ring under the sanitizers of gcc, in a short form of ``make sanitize``."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    import subprocess

ROOT: Final = Path(__file__).resolve().parents[2]
ROUNDS: Final = "5000"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("sanitize", ROOT / "tests" / "native" / "sanitize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SANITIZE: Final = _script()


def strained(sanitizer: str, folder: Path, headers: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The stress program built over these headers, run to its end; skips where that cannot be."""
    reason = SANITIZE.lacking(sanitizer)
    if reason is not None:
        pytest.skip(reason)
    program = folder / sanitizer
    SANITIZE.build(sanitizer, program, headers)
    done: subprocess.CompletedProcess[str] = SANITIZE.run(program, "--rounds", ROUNDS, *arguments)
    return done


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_the_core_is_clean_under_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    done = strained(sanitizer, tmp_path, ROOT / "shm")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [f"order {ROUNDS} ok", f"wake by futex {ROUNDS} ok", f"wake by eventfd {ROUNDS} ok", f"returns {ROUNDS} ok"]
    assert done.stdout.splitlines() == lines
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("sanitizer", "header", "right", "wrong"),
    [
        pytest.param(
            "thread",
            "slots.h",
            "atomic_store_explicit(&p->tail, tx->tail, memory_order_release);",
            "atomic_store_explicit(&p->tail, tx->tail, memory_order_relaxed);",
            id="a record is published without order",
        ),
        pytest.param(
            "address",
            "slots.h",
            "if (payload) memcpy(at + FB_ALIGN, payload, record->length);",
            "if (payload) memcpy(at + FB_ALIGN, payload, record->length + 4096);",
            id="a copy reads beyond its source",
        ),
        pytest.param(
            "address",
            "slots.h",
            "    *holders &= ~(1ull << tx->bit);",
            "    *holders &= ~(1ull << (tx->bit + 64));",
            id="a shift is wider than its word",
        ),
    ],
)
def test_a_planted_mistake_is_found(sanitizer: str, header: str, right: str, wrong: str, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.mkdir()
    for name in ("ring.h", "slots.h"):
        shutil.copy(ROOT / "shm" / name, headers)
    text = (headers / header).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (headers / header).write_text(text.replace(right, wrong), encoding="utf-8")
    assert strained(sanitizer, tmp_path, headers).returncode != 0
