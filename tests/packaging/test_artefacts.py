"""The sdist and the wheel: what is in them, and that they work where nothing else is installed.

Built with the setuptools beside this interpreter, so that nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
HOMES: Final = ("adapters", "shm", "transports", "wit")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD: Final = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def attempt(*command: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with `more` in its environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GIT_", "FLOWBRIDGE_"))}
    return subprocess.run(command, cwd=folder, env=kept | more, capture_output=True, text=True, check=False)


def run(*command: str, folder: Path) -> str:
    """Run a command and give what it printed; fail with all it said."""
    result = attempt(*command, folder=folder)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


def build(what: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel from a folder."""
    target.mkdir(parents=True, exist_ok=True)
    return target / run(sys.executable, "-c", BUILD, f"build_{what}", str(target), folder=source).splitlines()[-1]


def project_files() -> list[str]:
    """What belongs to an artefact's source, links included, caches and remains of builds not."""
    tops = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "flowbridge", *HOMES]
    found = [ROOT / top for top in tops if (ROOT / top).is_file()]
    for top in tops:
        found += [path for path in (ROOT / top).rglob("*") if path.is_symlink() or path.is_file()]
    built = {ROOT / "shm" / "_core.c", *(ROOT / "shm").glob("_core.*.so")}
    return [
        path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts and path not in built
    ]


def compiled(name: str) -> bool:
    """Whether a file of a wheel is the native ring: it is the same, but for what the machine that built it adds."""
    return name.startswith("flowbridge/shm/_core.") and name.endswith(".so")


def has_compiler() -> bool:
    """Whether the native ring can be built here."""
    return shutil.which("cc") is not None or shutil.which("gcc") is not None


def source_of_native(name: str) -> bool:
    """Whether a file is only there to be compiled, or to prove what is compiled."""
    return name.endswith((".pyx", ".pxi", ".h", ".pml"))


def code_in(names: list[str]) -> set[str]:
    """The files that must be installed, by the path that they have there. Notes for readers stay behind."""
    homes = tuple(f"{home}/" for home in HOMES)
    linked = {f"flowbridge/{home}" for home in HOMES}
    real = [name for name in names if name not in linked and not name.endswith(".md")]
    return {f"flowbridge/{name}" if name.startswith(homes) else name for name in real if "/" in name}


def content(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, but for its list of digests, which is in the order of the build."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names)), "a file is in the wheel twice"
        return {name: archive.read(name) for name in names if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the checkout."""
    assert shutil.which("git"), "git is missing"
    assert int(version("setuptools").partition(".")[0]) >= 77, "setuptools is too old: pip install '.[dev]'"
    target = tmp_path_factory.mktemp("source")
    for name in project_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    run("git", "init", "--quiet", folder=target)
    run("git", "add", "--all", folder=target)
    who = ("-c", "user.name=packager", "-c", "user.email=packager@localhost", "-c", "commit.gpgsign=false")
    run("git", *who, "commit", "--quiet", "--message=sources", folder=target)
    return target


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an index's user gets it: built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build("wheel", unpacked, folder / "dist")


def test_the_sdist_holds_every_source_file_once(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()]
    assert len(names) == len(set(names))
    inside = code_in([name for name in names if name.split("/")[0] in {"flowbridge", *HOMES}])
    assert inside == code_in(project_files())
    assert not [name for name in names if name.startswith(tuple(f"flowbridge/{home}/" for home in HOMES))]
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= set(names)
    assert not [name for name in names if name.endswith((".so", "_core.c"))]


def test_the_wheel_installs_one_name_and_nothing_generic(wheel: Path) -> None:
    info = f"flowbridge-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in content(wheel)} == {"flowbridge", info}


def test_the_wheel_holds_every_file_of_the_packages_once(wheel: Path) -> None:
    inside = {name for name in content(wheel) if name.startswith("flowbridge/") and not compiled(name)}
    assert inside == {name for name in code_in(project_files()) if not source_of_native(name)}
    assert {"flowbridge/py.typed", "flowbridge/shm/_core.pyi"} <= inside
    native = [name for name in content(wheel) if compiled(name)]
    assert len(native) == has_compiler(), "the native ring was not built"
    assert {f"flowbridge/{home}/__init__.py" for home in HOMES} <= inside


def test_the_wheel_declares_its_command_and_its_entry_points(wheel: Path) -> None:
    files = content(wheel)
    declared = next(text for name, text in files.items() if name.endswith("/entry_points.txt")).decode()
    groups = PROJECT["entry-points"] | {"console_scripts": PROJECT["scripts"]}
    for group, entries in groups.items():
        assert f"[{group}]" in declared
        for name, target in entries.items():
            assert f"{name} = {target}" in declared
    assert any(name.endswith("/licenses/LICENSE") for name in files)


def test_the_tree_and_the_sdist_give_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "source", symlinks=True)
    assert content(build("wheel", tmp_path / "source", tmp_path / "dist")) == content(wheel)


def test_a_clone_without_links_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    run("git", "clone", "--quiet", "-c", "core.symlinks=false", str(source), str(tmp_path / "clone"), folder=tmp_path)
    link = tmp_path / "clone" / "flowbridge" / "transports"
    assert not link.is_symlink()
    assert link.read_text(encoding="utf-8") == "../transports"
    assert content(build("wheel", tmp_path / "clone", tmp_path / "dist")) == content(wheel)


def test_an_installed_wheel_imports_where_nothing_else_is(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"), folder=tmp_path)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel))
    run(sys.executable, "-m", "pip", "--python", python, *install, folder=tmp_path)
    script = "\n".join(
        [
            "import flowbridge, flowbridge.transports, flowbridge.shm, flowbridge.adapters, flowbridge.wit",
            "from flowbridge import Envelope, FlowErrors, Plan, Priority, Transport, WouldBlock",
            "assert flowbridge.Plan.__module__ == 'flowbridge.plan'",
            "from importlib.util import find_spec",
            "assert not any(find_spec(name) for name in ('transports', 'shm', 'adapters', 'wit'))",
            "print(flowbridge.shm.native_problem() or 'native')",
            "print(flowbridge.__file__)",
            "print(flowbridge.__version__)",
        ]
    )
    native, file, installed = run(python, "-c", script, folder=tmp_path).splitlines()
    assert native == "native" or not has_compiler()
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert installed == PROJECT["version"]


@pytest.mark.parametrize("required", ["0", "1"])
def test_a_machine_without_a_compiler_gets_a_wheel_unless_the_ring_is_required(
    source: Path, tmp_path: Path, required: str
) -> None:
    shutil.copytree(source, tmp_path / "source", symlinks=True)
    (tmp_path / "dist").mkdir()
    command = (sys.executable, "-c", BUILD, "build_wheel", str(tmp_path / "dist"))
    nothing = str(tmp_path / "no-compiler")
    result = attempt(*command, folder=tmp_path / "source", CC=nothing, FLOWBRIDGE_REQUIRE_NATIVE=required)
    assert (result.returncode != 0) == (required == "1"), result.stderr
    wheels = list((tmp_path / "dist").glob("*.whl"))
    assert len(wheels) == (required == "0")
    assert not [name for file in wheels for name in content(file) if compiled(name)]
