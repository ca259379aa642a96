"""The rules of the house, as tests: layout, sizes, names, docstrings, purity, types and style."""

from __future__ import annotations

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
HOMES: Final = ("adapters", "shm", "transports", "wit")  # the folders that flowbridge/ links to
CODE: Final = ("flowbridge", *HOMES)
TOP_LEVEL: Final = {
    *(".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md"),
    *("pyproject.toml", "setup.py"),
    *("adapters", "benchmarks", "docs", "examples", "flowbridge", "shm", "tests", "transports", "wit"),
}
FILE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 70
NAMES_THAT_SAY_NOTHING: Final = {"base", "common", "core", "helper", "helpers", "misc", "util", "utils"}
SLEEPERS_ALLOWED: Final = ("tests/fault/", "tests/integration/")
PRIVATE_PATH: Final = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work)/\w")

Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- reading the tree ---------------------------------------------------------------------------------------------


def _from_git() -> list[str]:
    git = shutil.which("git")
    if git is None:
        return []
    listing = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    return [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]


def _from_disk() -> list[str]:
    """What an unpacked archive holds, where nobody can ask git."""
    unwanted = {".git", ".venv", "__pycache__", "build", "dist", "out", ".hypothesis", ".benchmarks"}
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_symlink() or path.is_file()]
    return [str(path) for path in found if not any(p in unwanted or p.endswith(".egg-info") for p in path.parts)]


@cache
def tracked() -> tuple[str, ...]:
    """Every file of the project, as posix paths from the root."""
    names = _from_git() or _from_disk()
    return tuple(sorted(name for name in names if os.path.lexists(ROOT / name)))


def python_files(*folders: str) -> list[str]:
    """The Python files below some top-level folders; `examples/broken` is broken on purpose."""
    names = (name for name in tracked() if name.endswith(".py") and not name.startswith("examples/broken/"))
    return [name for name in names if name.split("/")[0] in folders]


@cache
def tree_of(name: str) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name)


@cache
def pyproject() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def module_name(name: str) -> str:
    """``transports/bus.py`` is ``flowbridge.transports.bus``."""
    parts = name.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] == "flowbridge" else ["flowbridge", *parts])


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """Every function of a tree, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def must_be_empty(found: Sequence[object]) -> None:
    """Fail with one line for each thing found."""
    assert not found, "\n" + "\n".join(map(str, found))


def is_call_of(node: ast.AST, module: str, attribute: str) -> bool:
    """Whether a node is the call ``module.attribute(...)``."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == attribute
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
    )


# --- layout -------------------------------------------------------------------------------------------------------


def test_the_top_level_holds_only_what_it_should() -> None:
    must_be_empty(sorted({name.split("/")[0] for name in tracked()} - TOP_LEVEL))


def test_the_packages_of_pyproject_are_those_of_the_tree() -> None:
    listed = cast("list[str]", pyproject()["tool"]["setuptools"]["packages"])
    found = {module_name(name) for name in python_files(*CODE) if name.endswith("/__init__.py")}
    assert sorted(listed) == sorted(found)


def test_every_folder_with_code_is_a_package() -> None:
    folders = {name.rpartition("/")[0] for name in python_files(*CODE)}
    must_be_empty([folder for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()])


def test_the_package_map_names_the_four_homes() -> None:
    mapped = cast("dict[str, str]", pyproject()["tool"]["setuptools"]["package-dir"])
    assert mapped == {f"flowbridge.{home}": home for home in HOMES}


@pytest.mark.parametrize("home", HOMES)
def test_a_link_of_the_package_points_home(home: str) -> None:
    link = ROOT / "flowbridge" / home
    if link.is_symlink():
        assert os.readlink(link) == f"../{home}"
    else:  # a checkout with core.symlinks=false: git wrote the target as the content of a small file
        assert link.read_text(encoding="utf-8") == f"../{home}"


@pytest.mark.parametrize("home", HOMES)
def test_a_home_refuses_to_be_imported_by_its_folder_name(home: str) -> None:
    command = [sys.executable, "-c", f"import {home}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: this is flowbridge.{home}, not {home}: import flowbridge.{home}"


def test_test_files_have_names_of_their_own_and_no_package() -> None:
    names = [name.rpartition("/")[2] for name in python_files("tests", "benchmarks")]
    must_be_empty(sorted({name for name in names if names.count(name) > 1}))
    assert "__init__.py" not in names


# --- sizes and names ----------------------------------------------------------------------------------------------


def spread(sizes: Sequence[int]) -> str:
    """Median and ninetieth percentile, for whoever has to find what to split."""
    ordered = sorted(sizes)
    return f"median {statistics.median(ordered):.0f}, p90 {ordered[len(ordered) * 9 // 10]}, max {ordered[-1]}"


def test_no_file_is_longer_than_its_ceiling() -> None:
    files = python_files(*CODE, "tests", "benchmarks", "examples")
    sizes = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files}
    too_long = {name: size for name, size in sizes.items() if size > FILE_LINES_MAX}
    assert too_long == {}, f"above {FILE_LINES_MAX} lines ({spread(list(sizes.values()))})"


def test_no_function_is_longer_than_its_ceiling() -> None:
    sizes: dict[str, int] = {}
    for name in python_files(*CODE, "tests", "benchmarks", "examples"):
        for function in functions_of(tree_of(name)):
            assert function.end_lineno is not None
            sizes[f"{name}:{function.lineno} {function.name}"] = function.end_lineno - function.lineno + 1
    too_long = {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX}
    assert too_long == {}, f"above {FUNCTION_LINES_MAX} lines ({spread(list(sizes.values()))})"


def test_every_module_name_says_something() -> None:
    names = {module_name(name): set(module_name(name).split(".")) for name in python_files(*CODE)}
    must_be_empty([name for name, parts in names.items() if parts & NAMES_THAT_SAY_NOTHING])


# --- docstrings ---------------------------------------------------------------------------------------------------

Documented = ast.Module | ast.ClassDef | Function


@cache
def promised_members() -> frozenset[str]:
    """The names that the Protocols of the contracts define: their prose stands there, once."""
    classes = [node for node in tree_of("flowbridge/contracts.py").body if isinstance(node, ast.ClassDef)]
    return frozenset(function.name for node in classes for function in node.body if isinstance(function, Function))


def is_only_a_shape(node: Documented) -> bool:
    """A member of a Protocol whose name and type say all, or a form for the type checker."""
    body = node.body[0] if node.body else None
    if isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and body.value.value is ...:
        return True
    decorators = [] if isinstance(node, ast.Module) else node.decorator_list
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in decorators)


def public_parts(name: str) -> Iterator[tuple[str, Documented]]:
    """The module, its public classes and functions, and the public methods that no contract describes."""
    module = tree_of(name)
    yield name, module
    for node in module.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        yield f"{name}:{node.lineno} {node.name}", node
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(member, Function) or member.name.startswith("_") or is_setter(member):
                continue
            if name == "flowbridge/contracts.py" or member.name not in promised_members():
                yield f"{name}:{member.lineno} {node.name}.{member.name}", member


def is_setter(function: Function) -> bool:
    """Whether a function is the second half of a property; its first half has the docstring."""
    return any(isinstance(d, ast.Attribute) and d.attr in {"setter", "deleter"} for d in function.decorator_list)


def test_everything_public_says_in_one_sentence_what_it_is() -> None:
    silent: list[str] = []
    for name in python_files(*CODE):
        for where, node in public_parts(name):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if not first.endswith((".", ":")) and not is_only_a_shape(node):
                silent.append(f"{where}: {first or 'no docstring'}")
    must_be_empty(silent)


# --- conduct ------------------------------------------------------------------------------------------------------


def test_only_the_command_line_prints() -> None:
    prints = [
        f"{name}:{node.lineno}"
        for name in python_files(*CODE)
        if not name.startswith("flowbridge/cli/")
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    must_be_empty(prints)


def real_sleeps(tree: ast.AST) -> Iterator[int]:
    """The lines that wait on the real clock; ``asyncio.sleep(0)`` only lets others run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}:
            if any(alias.name == "sleep" for alias in node.names):
                yield node.lineno
        elif is_call_of(node, "time", "sleep"):
            yield cast("ast.Call", node).lineno
        elif is_call_of(node, "asyncio", "sleep"):
            call = cast("ast.Call", node)
            argument = call.args[0] if call.args else None
            if not (isinstance(argument, ast.Constant) and argument.value == 0):
                yield call.lineno


def test_no_test_sleeps_on_the_real_clock() -> None:
    sleepers = [
        f"{name}:{line}"
        for name in python_files("tests")
        if not name.startswith(SLEEPERS_ALLOWED)
        for line in real_sleeps(tree_of(name))
    ]
    must_be_empty(sleepers)


def test_no_file_names_a_private_path() -> None:
    found: list[str] = []
    for name in tracked():
        if (ROOT / name).is_symlink():
            continue
        text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
        found += [f"{name}: {match[0]}" for match in PRIVATE_PATH.finditer(text)]
    must_be_empty(found)


def test_every_example_flow_starts_with_its_schema() -> None:
    flows = [name for name in tracked() if name.startswith("examples/") and name.endswith((".yaml", ".yml"))]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in flows}
    flows = [name for name, text in texts.items() if re.search(r"^flowbridge:", text, re.MULTILINE)]
    assert flows, "there is no example flow"
    start = "# yaml-language-server: $schema="
    must_be_empty([name for name in flows if not texts[name].startswith(start)])
    for name in flows:
        target = texts[name].partition("\n")[0].removeprefix(start).strip()
        assert (ROOT / name).parent.joinpath(target).resolve().is_file(), f"{name}: {target} is not there"


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:6] == ["Apache", "License", "Version", "2.0,", "January", "2004"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert pyproject()["project"]["license"] == "Apache-2.0"


def test_the_changelog_has_an_entry_for_this_version() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert pyproject()["project"]["version"] in versions


def test_every_link_of_the_docs_leads_somewhere() -> None:
    pages = [name for name in tracked() if name.endswith(".md")]
    lost: list[str] = []
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        targets = [target for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in target]
        lost += [f"{page}: {target}" for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    must_be_empty(lost)


# --- import contracts ---------------------------------------------------------------------------------------------


def contract(identifier: str) -> dict[str, Any]:
    """One import contract of pyproject.toml."""
    return next(c for c in pyproject()["tool"]["importlinter"]["contracts"] if c["id"] == identifier)


def layers() -> list[set[str]]:
    """The modules of each layer, uppermost first."""
    return [set(re.findall(r"[\w.]+", layer)) for layer in contract("layers")["layers"]]


def test_every_module_has_its_place_in_the_layers() -> None:
    found = {".".join(module_name(name).split(".")[:2]) for name in python_files(*CODE)}
    # The face, its command, the scaffold, no code.
    without_layer = {"flowbridge", "flowbridge.__main__", "flowbridge.testing", "flowbridge.wit"}
    must_be_empty(sorted(found - without_layer - set[str]().union(*layers())))


def test_the_purity_contract_leaves_out_no_word_and_no_machine() -> None:
    present = {".".join(module_name(name).split(".")[:2]) for name in python_files(*CODE)}
    words, contracts, machines, codec = layers()[-1], layers()[-2], layers()[-3], layers()[-4]
    assert set(contract("pure")["source_modules"]) == (words | contracts | machines | codec) & present


def imported_names(tree: ast.AST) -> Iterator[str]:
    """The first word of every module that is imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def test_every_third_party_that_is_imported_has_a_fence() -> None:
    fenced = set(contract("third-parties")["forbidden_modules"])
    ours = {"flowbridge", *sys.stdlib_module_names}
    imports = {(name, word) for name in python_files(*CODE) for word in imported_names(tree_of(name))}
    must_be_empty(sorted(f"{name}: {word}" for name, word in imports if word not in fenced | ours))


VIOLATIONS: Final = {
    "a word looks up": ("layers", "flowbridge/emit.py", "import flowbridge.runtime"),
    "a machine looks up": ("layers", "flowbridge/machines/planted.py", "import flowbridge.runtime"),
    "a neighbour through a link": ("layers", "transports/planted.py", "import flowbridge.adapters"),
    "a neighbour the other way": ("layers", "flowbridge/operators/planted.py", "import flowbridge.telemetry"),
    "a machine reads the clock": ("pure", "flowbridge/machines/planted.py", "import time"),
    "time waits": ("pure", "flowbridge/time/planted.py", "import asyncio"),
    "a codec opens a file": ("pure", "flowbridge/codec/planted.py", "import os"),
    "time computes with arrays": ("bare", "flowbridge/time/planted.py", "def f() -> None:\n    import pyarrow"),
    "a tier leans on another": ("tiers", "transports/uds/planted.py", "import flowbridge.transports.inproc"),
    "the runtime picks a tier": ("by-name", "flowbridge/runtime/planted.py", "import flowbridge.transports.inproc"),
    "a part leans on the scaffold": ("testing", "flowbridge/runtime/planted.py", "import flowbridge.testing"),
    "yaml outside its fence": ("third-parties", "flowbridge/runtime/planted.py", "import yaml"),
    "arrow on the hot path": ("third-parties", "transports/inproc/planted.py", "import pyarrow"),
    "quic beside its engine": ("third-parties", "transports/quic/planted.py", "import aioquic.quic.connection"),
    "quic outside its tier": ("third-parties", "transports/inproc/planted.py", "import aioquic.quic.connection"),
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over a checkout."""
    return run_tool("lint-imports", "--no-logo", "--no-cache", folder=folder)


@pytest.fixture(scope="module")
def copy_of_the_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code alone, its links kept, in a folder where it may be spoilt."""
    target = tmp_path_factory.mktemp("spoilt")
    for name in ("pyproject.toml", *(n for n in tracked() if n.split("/")[0] in CODE)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def test_every_import_contract_has_a_violation_to_bite() -> None:
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    assert {c["id"] for c in contracts} == {identifier for identifier, _, _ in VIOLATIONS.values()}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_an_import_contract_bites(what: str, copy_of_the_code: Path) -> None:
    identifier, name, line = VIOLATIONS[what]
    file = copy_of_the_code / name
    before = file.read_text(encoding="utf-8") if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        result = lint_imports(copy_of_the_code)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before, encoding="utf-8")
    assert f"{contract(identifier)['name']} BROKEN" in result.stdout, result.stdout + result.stderr


# --- the tools ----------------------------------------------------------------------------------------------------


def run_tool(tool: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a tool that is installed beside this interpreter; one that is missing is a failure, not a reason to skip."""
    path = Path(sys.executable).parent / tool
    assert path.exists(), f"{path} is missing: pip install --editable '.[dev]'"
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "160"}
    command = [str(path), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def must_be_clean(result: subprocess.CompletedProcess[str]) -> None:
    """Fail with what the tool said."""
    if result.returncode != 0:
        pytest.fail(f"{result.args}\n{result.stdout}\n{result.stderr}", pytrace=False)


def test_imports_obey_their_contracts() -> None:
    must_be_clean(lint_imports(ROOT))


def test_ruff_finds_nothing() -> None:
    must_be_clean(run_tool("ruff", "check", "."))


def test_the_code_is_formatted() -> None:
    must_be_clean(run_tool("ruff", "format", "--check", "--diff", "."))


def test_mypy_finds_nothing() -> None:
    must_be_clean(run_tool("mypy"))


def test_basedpyright_finds_nothing() -> None:
    must_be_clean(run_tool("basedpyright", "--level", "error"))
