"""What the READMEs say is so: their Python runs, their commands parse, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from qkv.cli import _parser
from qkv.config import load_config

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]


def blocks(readme: str, language: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
def test_python_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["abc", "hello", "world", "query", "key", "value", "stream", "letters"]
    pairs = "".join(f"{word}\t{word[::-1]}\n" for word in words)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(pairs * 4, encoding="utf-8")
    code = blocks("README.md", "python")[number]
    exec(compile(code, f"README.md, block {number + 1}", "exec"), {})


def test_both_languages_show_the_same_python():
    assert len(blocks("README.md", "python")) >= 3
    without_comments = [[re.sub(r"\s+#.*", "", block) for block in blocks(readme, "python")] for readme in READMES]
    assert without_comments[0] == without_comments[1]


@pytest.mark.parametrize("readme", READMES)
def test_shell_commands_parse(readme):
    commands = [line for block in blocks(readme, "sh") for line in block.splitlines() if line.strip()]
    assert any(line.startswith("qkv train") for line in commands)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), line
        else:
            assert words[0] == "qkv", line
            parsed = _parser().parse_args(
                [word for word in words[1:] if word not in ("<", ">", "input.txt", "output.txt")]
            )
            if words[1] == "train":
                load_config(ROOT / parsed.recipe, parsed.overrides)


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / readme).read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert len(links) > 10
    assert not missing


def test_gate_calls_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_recipes_load(recipe):
    config = load_config(ROOT / "recipes" / recipe)
    assert config.data.train is not None or recipe == "reference.yaml"
