"""`make docs`: every public name has its place in the API reference, and what is wrong with a docstring is an error."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "qkv"

TOY = '''
"""Speaks of `toy.gone`, of `toy.here`, which exists, and of `toy.metrics`, a group of entry points."""

from qkv.registry import Registry

__all__ = ["here", "lost"]

def here(there: "Nowhere"):
    """Wants an argument.

    Args:
        there: is one.
        elsewhere: is none.
    """

METRICS = Registry("metric", {}, group="toy.metrics")

class Thing:
    """Has little.

    Attributes:
        mine: set below.
        missing: set nowhere.
    """

    def __init__(self):
        self.mine = 1
'''


def build(directory, *options, path=ROOT / "src"):
    command = [sys.executable, ROOT / "docs" / "api.py", directory, *options]
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT / 'src'}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def public():
    """Each module with the names of its `__all__`; of qkv's own, without importing anything."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("qkv", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield module, ast.literal_eval(node.value)


def test_every_module_and_every_public_name_is_explained(tmp_path):
    built = build(tmp_path, "--no-source")
    assert (built.returncode, built.stderr) == (0, "")
    for path in PACKAGE.rglob("*.py"):
        module = path.parent if path.stem == "__init__" else path.with_suffix("")
        if path.stem != "__main__":
            assert (tmp_path / "qkv" / module.relative_to(PACKAGE)).with_suffix(".html").is_file(), path
    found = dict(public())
    assert {"qkv", "qkv.nn"} <= found.keys()
    for module, names in found.items():
        page = (tmp_path / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert [name for name in names if f'id="{name}"' not in page] == [], module


def test_what_is_wrong_with_a_docstring_is_an_error(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text(TOY, encoding="utf-8")
    (tmp_path / "toy" / "thing.py").write_text(TOY.replace('"here", "lost"', '"Thing"'), encoding="utf-8")
    built = build(tmp_path / "out", "--package", "toy", path=tmp_path)
    assert built.returncode == 1
    for fault in (
        "'lost' in toy.__all__, but it does not resolve",
        "Nowhere",
        "toy: there is no toy.gone",
        "toy.here: Args explains elsewhere, which does not exist",
        "toy.thing.Thing: Attributes explains missing, which does not exist",
    ):
        assert fault in built.stderr
    for sound in ("no toy.here", "no toy.metrics", "explains there", "explains mine"):
        assert sound not in built.stderr
