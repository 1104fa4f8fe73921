"""Every recipe can be read, finds its data in this repository's data/ and says how to get it."""

import gzip
import importlib.util
import re
from pathlib import Path

import pytest

from qkv.config.loading import load_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.name != "reference.yaml")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_a_recipe_says_how_to_get_its_data(recipe):
    root = Path(load_config(recipe).data.root)
    assert root.parts[0] == "data"
    head = re.match(r"(?:#.*\n)+", recipe.read_text("utf-8"))[0]
    place = "/".join(root.parts[:2])
    assert re.search(rf"{place}\b", head), f"the first lines speak of {place}"
    scripts = re.findall(r"python (recipes/data/\w+\.py)", head)
    assert scripts or "https://" in head
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.fixture
def multi30k():
    path = ROOT / "recipes" / "data" / "multi30k.py"
    spec = importlib.util.spec_from_file_location("multi30k_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_multi30k_is_laid_out_as_the_recipes_look_for_it(multi30k, tmp_path, capsys):
    clone, data = tmp_path / "clone", tmp_path / "data"
    for part in ("train", "val", "test_2016_flickr"):
        for side in ("en", "de"):
            for folder in ("raw", "tok"):
                (clone / "data/task1" / folder).mkdir(parents=True, exist_ok=True)
            (clone / f"data/task1/raw/{part}.{side}.gz").write_bytes(gzip.compress(f"{part} {side}\n".encode()))
            (clone / f"data/task1/tok/{part}.lc.norm.tok.{side}").write_text(f"{part} {side} .\n", "utf-8")
    assert multi30k.main([str(clone), str(data)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    for recipe in RECIPES:
        config = load_config(recipe)
        if config.data.root.startswith("data/multi30k"):
            below = data / Path(config.data.root).relative_to("data/multi30k")
            for files in (config.data.train, config.data.validation, config.data.test):
                assert (below / files.source).read_text("utf-8").split()[1] == "en"
                assert (below / files.target).read_text("utf-8").split()[1] == "de"
    assert (data / "tok" / "test2016.de").read_text("utf-8") == "test_2016_flickr de .\n"


def test_what_is_no_clone_of_multi30k_is_refused(multi30k, tmp_path, capsys):
    assert multi30k.main([str(tmp_path), str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err.startswith(f"multi30k.py: {tmp_path}: not a clone of github.com/multi30k/dataset")
    assert not (tmp_path / "data").exists()
    assert multi30k.main([]) == 2
