"""The modules that stand beside the tests are imported by their plain names."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (".", "unit", "integration"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
