"""The native ring, flowbridge.shm._core; everything else is said in pyproject.toml.

Without a compiler the package still installs, and the ipc tier falls back to its socket. With
FLOWBRIDGE_REQUIRE_NATIVE=1 in the environment a ring that cannot be built fails the build.
"""

import os
from glob import glob

from setuptools import Extension, setup

REQUIRED = os.environ.get("FLOWBRIDGE_REQUIRE_NATIVE") == "1"

setup(
    ext_modules=[
        Extension(
            "flowbridge.shm._core",
            ["shm/_core.pyx"],
            depends=[*glob("shm/*.h"), *glob("shm/*.pxi")],
            extra_compile_args=["-O2", "-g0", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"],
            extra_link_args=["-s"],
            optional=not REQUIRED,
        )
    ]
)
