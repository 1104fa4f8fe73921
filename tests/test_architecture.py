"""The house's rules: imports point down, never up, never in a circle; each floor knows only what it may know."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "qkv"

# Every part of qkv and the floor that it stands on; a part may import what is on its own floor and below.
FLOORS = {
    "": 0,  # the package itself, for its version
    "errors": 0,
    "registry": 0,
    "settings": 0,
    "files": 0,
    "devices": 0,
    "progress": 0,
    "nn": 1,
    "text": 1,
    "metrics": 1,
    "pages": 1,
    "decoding": 2,
    "config": 3,
    "run": 4,
    "translator": 5,
    "loading": 5,
    "training": 6,
    "evaluation": 6,
    "inspection": 6,
    "interchange": 6,
    "measuring": 6,
    "comparison": 7,
    "experiment": 7,
    "serving": 7,
    "cli": 8,
    "__main__": 8,
}
# What these parts may know of qkv, beside themselves.
NEIGHBOURS = {
    "nn": {"registry"},
    "text": {"errors", "files", "registry", "settings", "progress"},
    "metrics": {"errors", "registry", "text"},
    "pages": {"errors", "files"},
}
_ENTRY = re.compile(r"(qkv(?:\.\w+)+):\w+")  # a registry's entry that is imported when it is needed

MODULES = {
    ".".join(("qkv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    """Every module that `module` imports: at its top, inside a function, for a type checker, or as an entry's text."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (entry := _ENTRY.fullmatch(node.value)):
            yield entry[1]


def imports_of_qkv(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "qkv"}


def part(module: str) -> str:
    """`qkv.nn.attention` → `nn`"""
    return [*module.split("."), ""][1]


def test_every_part_stands_on_a_floor():
    assert {part(module) for module in MODULES} - {""} <= FLOORS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    if module == "qkv":
        return  # hands public names on when they are asked for
    floor = FLOORS[part(module)]
    assert [name for name in imports_of_qkv(module) if FLOORS[part(name)] > floor] == []


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_ground_floor_knows_little(name):
    known = {part(other) for module in MODULES if part(module) == name for other in imports_of_qkv(module)}
    assert known <= NEIGHBOURS[name] | {name}


def test_nn_imports_torch_alone():
    outside = {name.split(".")[0] for module in MODULES if part(module) == "nn" for name in imports(module)} - set(
        sys.stdlib_module_names
    )
    assert outside == {"torch", "jaxtyping", "qkv"}


def test_a_part_says_which_floor_it_stands_on():
    for module, path in MODULES.items():
        said = re.match(r'"""Floor (\d):', path.read_text("utf-8"))
        assert said is None or int(said[1]) == FLOORS[part(module)], module


def test_nn_reads_like_the_paper():
    """What is done for speed on one kind of machine is done elsewhere, to a finished model or around a training."""
    for module, path in MODULES.items():
        if part(module) == "nn":
            text = path.read_text("utf-8")
            assert re.findall(r"(?i)\bCPUs?\b(?!\()|\bpacking\b|quanti[sz]|torch\._", text) == [], module


def test_private_operators_of_torch_are_for_one_room():
    private = re.compile(r"torch\.(_[a-z]\w*|ops\.\w+)")
    found = {module: private.findall(path.read_text("utf-8")) for module, path in MODULES.items()}
    assert {module for module, names in found.items() if names} <= {
        "qkv.decoding.cpu.packing",
        "qkv.decoding.cpu.quantization",
    }


def test_no_file_is_longer_than_one_sitting():
    assert [module for module, path in MODULES.items() if len(path.read_text("utf-8").splitlines()) > 350] == []


def test_text_knows_no_models():
    imported = {name for module in MODULES if part(module) == "text" for name in imports(module)}
    assert not any(name.startswith("torch.nn") for name in imported)


def test_no_modules_in_a_circle():
    graph = {module: imports_of_qkv(module) for module in MODULES if module != "qkv"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_parts_in_a_circle():
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module != "qkv":
            graph.setdefault(part(module), set()).update(map(part, imports_of_qkv(module)))
    for name, known in graph.items():
        known.discard(name)
    graphlib.TopologicalSorter(graph).prepare()


def test_the_cache_of_keys_and_values_lives_in_nn():
    assert "qkv.nn.cache" in MODULES
    assert "qkv.decoding.cache" not in MODULES


def test_importing_qkv_does_no_work():
    heavy = ["torch", "numpy", "jaxtyping", "pydantic", "sentencepiece", "sacrebleu", "pyarrow"]
    code = f"import sys, qkv; print([name for name in {heavy} if name in sys.modules])"
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
