"""What the READMEs and docs say is so: their Python runs, their commands parse. (Their links: test_papers.py.)"""

import re
import shlex
from pathlib import Path

import pytest

from qkv.cli.main import parse
from qkv.comparison.variants import make_variants, read_vary
from qkv.config.loading import foreign_options, load_config
from qkv.nn.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]
PAGES = [*READMES, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml"))
LINEAGE = [recipe for recipe in RECIPES if recipe.startswith("recipes/lineage/")]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), flags=re.DOTALL | re.MULTILINE)


def without_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)


def examples(page: str) -> list[tuple[str, str]]:
    """Python blocks, each with what it prints if a block of text comes right after it."""
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?"
    return re.findall(pattern, text(page), flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The lines of shell blocks, and those that are indented and begin with qkv."""
    fenced = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    indented = re.findall(r"^    (qkv .*)$", without_blocks(page).replace("\\\n", " "), flags=re.MULTILINE)
    return [line for line in fenced + indented if shlex.split(line, comments=True)]


def over_pages(find):
    """One test case for each thing that is found on a page.

    Not for Python that runs elsewhere: the Chinese README has the English one's, and test_tour.py runs the tour, where
    a page is one program.
    """
    elsewhere = ("README.zh-CN.md", "docs/tour/")
    pages = [page for page in PAGES if find is not examples or not page.startswith(elsewhere)]
    found = [(page, number, item) for page in pages for number, item in enumerate(find(page), start=1)]
    return pytest.mark.parametrize(
        ("page", "item"), [pytest.param(page, item, id=f"{page}:{number}") for page, number, item in found]
    )


@pytest.mark.usefixtures("without_shape_checks")  # one block trains
@over_pages(examples)
def test_python_runs(page, item, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["abc", "hello", "world", "query", "key", "value", "stream", "letters"]
    pairs = "".join(f"{word}\t{word[::-1]}\n" for word in words)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(pairs * 4, encoding="utf-8")
    code, shown = item
    exec(compile(code, page, "exec"), {})
    if shown:
        assert capsys.readouterr().out == shown


def test_both_languages_show_the_same_python():
    assert len(blocks("README.md", "python")) >= 3
    without_comments = [[re.sub(r"\s+#.*", "", block) for block in blocks(readme, "python")] for readme in READMES]
    assert without_comments[0] == without_comments[1]


@over_pages(commands)
def test_commands_parse(page, item):
    for command in pipeline(item):
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", text("Makefile"), flags=re.MULTILINE)
        elif command[0] == "python":
            assert (ROOT / command[1]).is_file()
        elif command[0] == "qkv":
            check(parse(command[1:])[1])
        else:
            assert command[0] in ("pip", "echo")


def pipeline(line: str) -> list[list[str]]:
    """The words of each command between pipes, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    found, words = [[]], iter(lexer)
    for word in words:
        if word == "|":
            found.append([])
        elif word in ("<", ">"):
            next(words)
        else:
            found[-1].append(word)
    return found


def check(options):
    """The recipe that a command names takes what the command changes, and none of it is set aside."""
    if "recipe" not in options or not options.recipe.endswith(".yaml"):
        return
    recipe, vary = ROOT / options.recipe, read_vary(getattr(options, "vary", []))
    if vary:
        configs = [variant.config for variant in make_variants(recipe, vary, options.overrides, Path("runs"))]
    else:
        configs = [load_config(recipe, options.overrides)]
    said = {override.partition("=")[0].removeprefix("model.") for override in [*options.overrides, *vary]}
    for config in configs:
        assert not said & set(foreign_options(config.model))


@pytest.mark.parametrize("readme", READMES)
def test_readmes_are_read(readme):
    """Guards the tests above against finding nothing to test."""
    assert any(line.startswith("qkv train") for line in commands(readme))
    assert len(re.findall(r"\]\(", without_blocks(readme))) > 10


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/architectures/")])
def test_architecture_pages_show_what_they_say(page):
    """Each has code whose output it shows, and a command that trains something on the lineage's recipe."""
    assert examples(page)
    assert all(shown for _, shown in examples(page))
    assert any("recipes/lineage/" in line for line in commands(page))
    assert page.endswith("/README.md") or f"({Path(page).name})" in text("docs/architectures/README.md")


def test_every_architecture_has_a_page():
    lines = [line for page in PAGES for line in commands(page) if page.startswith("docs/architectures/")]
    named = {name for line in lines for value in re.findall(r"architecture=(\S+)", line) for name in value.split(",")}
    assert named == set(ARCHITECTURES)


def test_gate_calls_the_readmes_test_command():
    assert "make test" in text(".ci/run")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_load(recipe):
    config = load_config(ROOT / recipe)
    assert config.data.train is not None or recipe == "recipes/reference.yaml"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recipe", LINEAGE)
def test_lineage_recipes_take_every_architecture(recipe, architecture):
    config = load_config(ROOT / recipe, [f"model.architecture={architecture}"])
    assert config.model.preset in ARCHITECTURES[architecture].presets
