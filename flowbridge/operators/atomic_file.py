"""A file that is there whole or not at all: written beside its place, and renamed at the end."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import BinaryIO, Final

_COUNTER: Final = itertools.count()


class AtomicFile:
    """Opens ``.name.PID-N.part`` in the folder of `path`, which is made if need be.

    `commit` brings the content to the disk and renames it; `discard` removes what was written. Raises OSError.
    Does not promise: that a killed process removes its part file.
    """

    def __init__(self, path: str) -> None:
        self._path: Final = path
        folder, name = os.path.split(path)
        os.makedirs(folder or ".", exist_ok=True)
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory", path)
        self._part: Final = os.path.join(folder, f".{name}.{os.getpid()}-{next(_COUNTER)}.part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.file: Final[BinaryIO] = os.fdopen(descriptor, "wb", buffering=1 << 20)
        self._open = True

    def commit(self) -> None:
        """Make the content appear under its name. When that fails, nothing is left."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._part, self._path)
            self._open = False
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written, unless it was committed. Idempotent; raises nothing."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError):
            self.file.close()  # may try to write its buffer again, onto the same full disk
        with suppress(OSError):
            os.unlink(self._part)
