"""The rules of the design: who may import whom, what the device needs, what every module says it offers."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgetl.recipe import declared_options
from edgetl_runtime.engines import ENGINES

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "edgetl": ROOT / "edgetl",
    "edgetl_export": ROOT / "export/edgetl_export",
    "edgetl_runtime": ROOT / "runtime/edgetl_runtime",
}
MAY_IMPORT = {
    "edgetl": {"edgetl", "edgetl_export", "edgetl_runtime"},
    "edgetl_export": {"edgetl_export", "edgetl_runtime"},
    "edgetl_runtime": {"edgetl_runtime"},
}
ON_THE_DEVICE = {"numpy", "PIL"}
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "openvino", "tensorflow", "ai_edge_litert", "tflite_runtime")
COMMANDS = [
    *("run", "train", "lr-range", "export", "verify", "bench", "inspect", "backbones", "compare", "learning-curve"),
    *("pack", "demo", "completion"),
]
WRITERS = {"edgetl_runtime.writing", "edgetl_export.staging", "edgetl_export.renaming"}
"""Who alone puts files and folders in place."""
IN_STAGED_FOLDERS = {
    "edgetl.models.checkpoint",
    "edgetl.models.sources.foreign",
    "edgetl.data.pixel_cache",
    "edgetl_export.bundle_writer",
}
"""Who writes plain files, into a folder that comes into place as a whole."""
CONFUSING = {"onnx", "torch", "openvino", "tensorflow", "numpy"}
"""A module of this name would be taken for the library by a reader, and by Python in a folder on the path."""


@dataclass(frozen=True)
class Module:
    """A module of the project: its dotted name, and its source."""

    name: str
    source: str

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.name)


def modules() -> list[Module]:
    return [
        Module(
            ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__"),
            path.read_text(encoding="utf-8"),
        )
        for folder in PACKAGES.values()
        for path in sorted(folder.rglob("*.py"))
    ]


MODULES = modules()
RUNTIME = [module for module in MODULES if module.package == "edgetl_runtime"]
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level packages that `nodes` import; ``importlib.import_module("x.y")`` counts too."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("relative import" if node.level else (node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {
                arg.value.partition(".")[0]
                for arg in node.args
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return found


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported: not the bodies of functions, nor ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_module_level(child)


def wrong_direction(module: Module) -> set[str]:
    """Packages of the project, and relative imports, that `module` must not import anywhere."""
    return imported(ast.walk(module.tree)) & ({*PACKAGES, "relative import"} - MAY_IMPORT[module.package])


def too_heavy(module: Module) -> set[str]:
    """What a module of the runtime imports at module level beyond the standard library, numpy and Pillow.

    The module that opens an engine's sessions may import that engine - it is itself imported when a session is
    opened - but no other module may import it.
    """
    nodes = list(at_module_level(module.tree))
    adapters = {info.module: info for info in ENGINES.values()}
    own = {library.module for library in adapters[module.name].libraries} if module.name in adapters else set()
    heavy = imported(iter(nodes)) - {*sys.stdlib_module_names, *ON_THE_DEVICE, "edgetl_runtime", *own}
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            named |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return heavy | (named & set(adapters))


def public_problems(module: Module) -> list[str]:
    """What is wrong with the module's ``__all__``: missing, unsorted, or without a public function or class."""
    body = module.tree.body
    assigned = {ast.unparse(t): node.value for node in body if isinstance(node, ast.Assign) for t in node.targets}
    assigned |= {
        ast.unparse(node.target): node.value for node in body if isinstance(node, ast.AnnAssign) and node.value
    }
    if "__all__" not in assigned:
        return ["no __all__"]
    names: list[str] = ast.literal_eval(assigned["__all__"])
    defined = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    found = [f"{name} is public, but not in __all__" for name in defined if name[0] != "_" and name not in names]
    if len(set(names)) != len(names) or names != sorted(names, key=_as_ruff_sorts):
        found.append("__all__ is not sorted")
    return found


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: ruff's isort style, so that its fix and this check agree."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def bad_name(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in CONFUSING or re.search(r"utils?$|helpers?$|^common$|^misc$", last) is not None


@each_module
def test_imports_point_one_way(module: Module) -> None:
    assert not wrong_direction(module)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("edgetl_runtime.x", "import edgetl_export.capture"),
        ("edgetl_runtime.x", "def f():\n    from edgetl.data.dataset import pick"),
        ("edgetl_runtime.x", "import importlib\nimportlib.import_module('edgetl.data.dataset')"),
        ("edgetl_export.x", "if True:\n    import edgetl"),
        ("edgetl.x", "from . import data"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(name: str, source: str) -> None:
    assert wrong_direction(Module(name, source))
    assert not wrong_direction(Module(name, "import edgetl_runtime.errors\nfrom edgetl_runtime import load"))


@pytest.mark.parametrize("module", RUNTIME, ids=lambda module: module.name)
def test_the_runtime_needs_numpy_and_pillow_only(module: Module) -> None:
    assert not too_heavy(module)


@pytest.mark.parametrize(
    "source",
    [
        "import onnxruntime",
        "class A:\n    import torch",
        "try:\n    import openvino\nexcept ImportError:\n    pass",
        "from edgetl_runtime.engines import ort",
        "import edgetl_runtime.engines.ov",
    ],
)
def test_an_engine_at_module_level_is_found(source: str) -> None:
    assert too_heavy(Module("edgetl_runtime.x", source))


def test_an_engine_inside_a_function_or_for_type_checkers_is_accepted() -> None:
    source = "import numpy\nfrom PIL import Image\ndef f():\n    import openvino\nif TYPE_CHECKING:\n    import onnx"
    assert not too_heavy(Module("edgetl_runtime.x", source))


def own_ways_to_write(module: Module) -> set[str]:
    """Calls that put a file in place in another way than `WRITERS` do."""
    banned = {"rename", "renames", "mkstemp", "mkdtemp", "NamedTemporaryFile", "savefig"}
    if module.name not in IN_STAGED_FOLDERS:
        banned |= {"write_text", "write_bytes"}
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.JoinedStr) and "getpid()" in ast.unparse(node):  # a name that can be foretold
            found.add(ast.unparse(node))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, arguments = node.func.attr, node.args
        # With one argument it is a path's; a string's has two. A picture may be drawn into memory.
        of_path = name == "replace" and len(arguments) == 1 and not node.keywords
        to_memory = name == "savefig" and ast.unparse(arguments[0]) in ("buffer", "content")
        if (name in banned and not to_memory) or (of_path and module.name != "edgetl_export.targets.openvino_file"):
            found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m.name not in WRITERS], ids=lambda module: module.name)
def test_there_is_one_way_to_put_a_file_in_place(module: Module) -> None:
    assert not own_ways_to_write(module)


@pytest.mark.parametrize(
    "source",
    [
        "Path('a').write_text('b')",
        "beside.replace(file)",
        "os.rename(a, b)",
        "name = f'{file}.{os.getpid()}.part'",
        "figure.savefig(path)",
        "tempfile.NamedTemporaryFile(dir=folder)",
    ],
)
def test_another_way_is_found(source: str) -> None:
    assert own_ways_to_write(Module("edgetl.x", source))
    assert not own_ways_to_write(Module("edgetl.x", "'a'.replace('b', 'c'); replace(a, b=1); write_file(path, text)"))


@each_module
def test_all_says_what_is_public(module: Module) -> None:
    assert not public_problems(module)


@each_module
def test_a_module_can_be_imported_and_has_what_it_promises(module: Module) -> None:
    found = importlib.import_module(module.name)
    promised: list[str] = getattr(found, "__all__", [])
    assert not [name for name in promised if not hasattr(found, name)]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(): ...", "no __all__"),
        ("__all__ = ['f']\ndef f(): ...\nclass G: ...", "G is public, but not in __all__"),
        ("__all__ = ['g', 'f']", "__all__ is not sorted"),
        ("__all__ = ['f', 'f']", "__all__ is not sorted"),
    ],
)
def test_a_wrong_all_is_found(source: str, problem: str) -> None:
    assert public_problems(Module("edgetl.x", source)) == [problem]


def test_a_right_all_is_accepted() -> None:
    source = "__all__: list[str] = ['A_B', 'Cd', 'ef']\nclass Cd: ...\ndef ef(): ...\ndef _hidden(): ..."
    assert not public_problems(Module("edgetl.x", source))


@each_module
def test_no_module_is_named_like_a_library_or_like_nothing(module: Module) -> None:
    assert not bad_name(module.name)


@pytest.mark.parametrize("name", ["edgetl_export.targets.onnx", "edgetl.utils", "edgetl.image_utils", "edgetl.helpers"])
def test_a_bad_name_is_found(name: str) -> None:
    assert bad_name(name)
    assert not bad_name("edgetl_export.targets.onnx_file")


def project(folder: Path) -> dict[str, Any]:
    """The [project] table of the distribution in `folder`."""
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_nothing_but_numpy_and_pillow_is_required_unconditionally() -> None:
    required = project(ROOT)["dependencies"]
    assert {re.split(r"[<>=~!;\[ ]", line)[0].lower() for line in required} == {"numpy", "pillow"}


def test_the_devices_distribution_is_a_part_of_the_whole_one() -> None:
    whole, device = project(ROOT), project(ROOT / "runtime")
    for key in ("dependencies", "license", "requires-python"):
        assert device[key] == whole[key], key
    for extra, required in device["optional-dependencies"].items():
        renamed = [line.replace("edgetl-runtime[", "edgetl[") for line in required]
        assert renamed == whole["optional-dependencies"][extra], extra
    assert device["scripts"].items() <= whole["scripts"].items()
    assert (ROOT / "runtime/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def loaded_by(program: str) -> set[str]:
    """The heavy libraries that `program` loads in a fresh interpreter; it must end well."""
    ending = f"\nimport json, sys\nprint('LOADED', json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    paths = [str(folder.parent) for folder in PACKAGES.values()]
    start = f"import sys\nsys.path[:0] = {paths!r}\n"
    done = subprocess.run([sys.executable, "-c", start + program + ending], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("LOADED ")[2]))


def helps(module: str, commands: list[str]) -> str:
    """A program that asks `module`'s command line, and each of its commands, for help."""
    return (
        f"from {module} import main\n"
        f"for words in {[['-h'], *([command, '-h'] for command in commands)]!r}:\n"
        "    try:\n        main(words)\n"
        "    except SystemExit as exit:\n        assert exit.code == 0, words\n"
        "    else:\n        raise AssertionError(words)\n"
    )


@pytest.mark.parametrize(
    "program",
    [
        "import edgetl_runtime",
        "import edgetl",
        helps("edgetl.cli.main", COMMANDS),
        helps("edgetl_runtime.cli", ["info", "predict", "bench", "self-test"]),
    ],
    ids=["edgetl_runtime", "edgetl", "edgetl -h", "edgetl-run -h"],
)
def test_starting_loads_no_framework(program: str) -> None:
    assert loaded_by(program) == set()


def test_a_loaded_framework_is_found() -> None:
    assert loaded_by("import sys, types\nsys.modules['torch'] = types.ModuleType('torch')") == {"torch"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_hides_what_a_package_offers(package: str) -> None:
    """Importing ``package.x`` binds the name ``x`` in the package: a function of that name must still be found."""
    for module in MODULES:
        importlib.import_module(module.name)
    found = importlib.import_module(package)
    assert not [name for name in found.__all__ if isinstance(getattr(found, name), ModuleType)]


ROOMS = (
    ("edgetl.stats", "edgetl.toml_file", "edgetl.figure_file", "edgetl.option"),
    ("edgetl.data",),
    ("edgetl.models",),
    ("edgetl.tasks",),
    ("edgetl.training", "edgetl.verify"),
    ("edgetl.reports",),
    (
        "edgetl.recipe",
        "edgetl.first_look",
        "edgetl.estimate",
        "edgetl.progress",
        "edgetl.pack",
        "edgetl.photos_to_export",
        "edgetl.export_options",
        "edgetl.open_to_export",
        "edgetl.pipeline",
        "edgetl.api",
    ),
    ("edgetl.studies", "edgetl.testing"),
    ("edgetl.cli", "edgetl.__main__"),
)
"""The rooms of ``edgetl`` from the ground up: a module imports from its own row, and from rows that stand before it."""


def imports_by_module(found: list[Module]) -> dict[str, set[str]]:
    """Name of each module -> the modules of the project that it imports anywhere, lazily and for types too."""
    names = {module.name for module in found}
    return {module.name: _modules_imported(module, names) - {module.name} for module in found}


def _modules_imported(module: Module, names: set[str]) -> set[str]:
    imports: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imports.add(inner if inner in names else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            imports |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return imports & names


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other around a circle (strongly connected components, Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        waiting.append(name)
        for other in sorted(imports[name]):
            if other not in number:
                visit(other)
            if other in waiting:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == number[name]:
            at = waiting.index(name)
            group = waiting[at:]
            del waiting[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(imports):
        if name not in number:
            visit(name)
    return found


def upward(imports: dict[str, set[str]]) -> list[str]:
    """``importer -> imported`` where a lower room of ``edgetl`` imports from a higher one."""
    return [
        f"{name} -> {other}"
        for name, others in sorted(imports.items())
        for other in sorted(others)
        if _floor(name) is not None and (_floor(other) or 0) > (_floor(name) or 0)
    ]


def _floor(name: str) -> int | None:
    rows = [i for i, row in enumerate(ROOMS) if any(name == room or name.startswith(f"{room}.") for room in row)]
    return rows[0] if rows else None


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(imports_by_module(MODULES)) == []


def test_no_room_imports_from_one_above_it() -> None:
    assert upward(imports_by_module(MODULES)) == []


def test_every_module_of_edgetl_has_a_room() -> None:
    assert [m.name for m in MODULES if m.package == "edgetl" and m.name != "edgetl" and _floor(m.name) is None] == []


@pytest.mark.parametrize(
    "sources",
    [
        {"edgetl.data.a": "import edgetl.data.b", "edgetl.data.b": "def f():\n    from edgetl.data import a"},
        {
            "edgetl.data.a": "from edgetl.data.b import x",
            "edgetl.data.b": "if TYPE_CHECKING:\n    from edgetl.data.c import y",
            "edgetl.data.c": "import importlib\nimportlib.import_module('edgetl.data.a')",
        },
    ],
)
def test_a_circle_is_found(sources: dict[str, str]) -> None:
    planted = [Module(name, source) for name, source in sources.items()]
    assert circles(imports_by_module(planted)) == [sorted(sources)]
    assert circles(imports_by_module(planted[:1])) == []


def test_an_import_from_a_higher_room_is_found() -> None:
    planted = [Module("edgetl.data.a", "def f():\n    import edgetl.verify.b"), Module("edgetl.verify.b", "")]
    assert upward(imports_by_module(planted)) == ["edgetl.data.a -> edgetl.verify.b"]
    back = [Module("edgetl.data.a", ""), Module("edgetl.verify.b", "import edgetl.data.a")]
    assert upward(imports_by_module(back)) == []


DECLARED_FLAGS = {option.flag for options in declared_options().values() for option in options if option.flag} | {
    f"--{option.former}" for options in declared_options().values() for option in options if option.former
}
"""The flags that stand for a key of the recipe: each is declared at its field, and nowhere else."""


def flags_by_hand(module: Module) -> set[str]:
    """Flags of the recipe that `module` gives to a parser itself."""
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    return {
        str(argument.value)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and argument.value in DECLARED_FLAGS
    }


@pytest.mark.parametrize("module", [m for m in MODULES if m.name.startswith("edgetl.")], ids=lambda module: module.name)
def test_an_option_of_the_recipe_is_declared_once(module: Module) -> None:
    assert not flags_by_hand(module)


@pytest.mark.parametrize(
    ("source", "flag"),
    [
        ("parser.add_argument('--epochs', type=int)", "--epochs"),
        ("def f(group):\n    group.add_argument('-d', '--data', metavar='DIR')", "--data"),
        ("sub.add_argument('--train-precision')", "--train-precision"),
        ("sub.add_argument('--precision', dest='train_precision')", "--precision"),
    ],
)
def test_an_option_declared_again_is_found(source: str, flag: str) -> None:
    assert flags_by_hand(Module("edgetl.cli.x", source)) == {flag}
    assert not flags_by_hand(Module("edgetl.cli.x", "parser.add_argument('--out', type=Path)"))


GONE = {
    *("retold", "watched", "stored", "observed", "chatter", "board", "likeness", "fidelity", "hurt", "label_places"),
    "explain_by_place",
}
"""Words that only their authors knew, or that stood for two things: no name in the code is one of them, or holds it
beside an underscore. What `report.json` calls its fields is kept."""


def words_that_are_gone(module: Module) -> set[str]:
    """Names of the module, of its functions, classes, arguments and variables that say `GONE`."""
    names = {module.name.rpartition(".")[2]}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr if node.attr != "ZIP_STORED" else "")  # zipfile's
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return {name for name in names if GONE & {name.lower(), *name.lower().strip("_").split("_")}}


@each_module
def test_words_that_are_gone_stay_away(module: Module) -> None:
    assert not words_that_are_gone(module)


@pytest.mark.parametrize(
    "source",
    ["watched = 1", "def f(observed): ...", "x._stored", "class Board: ...", "def likeness_db(): ..."],
)
def test_a_word_that_is_gone_is_found(source: str) -> None:
    assert words_that_are_gone(Module("edgetl.x", source))
    assert not words_that_are_gone(Module("edgetl.x", "restored = tensorboard.observer"))
