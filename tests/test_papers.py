"""An open project's papers agree with the code and with each other: versions, hooks, the map, links, the index."""

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml

import qkv

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@cache
def tracked() -> list[str]:
    """All files of the repository, as git knows them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def markdown() -> list[str]:
    return [name for name in tracked() if name.endswith(".md")]


def text(name: str | Path) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# Links


def links(page: str | Path) -> list[str]:
    """Where the links of a page lead, pictures among them."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", text(page)))


@cache
def anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text(page)), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    seen: Counter[str] = Counter()
    found = set()
    for heading in plain:
        name = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


@pytest.mark.parametrize("page", markdown())
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), link


def test_headings_are_named_as_github_names_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# DNA → protein\n## `qkv` and [its](x.md) peers\n```sh\n# none\n```\n## 约定\n## 约定\n", "utf-8")
    assert anchors(page) == {"dna--protein", "qkv-and-its-peers", "约定", "约定-1"}


def test_the_index_leads_to_every_page_of_the_docs():
    reached, open_pages = set(), [ROOT / "docs" / "README.md"]
    while open_pages:
        page = open_pages.pop()
        reached.add(page)
        for link in links(page):
            target = page.parent.joinpath(link.partition("#")[0]).resolve()
            if target in reached or not target.is_relative_to(ROOT / "docs"):
                continue
            if target.suffix == ".md":
                open_pages.append(target)
            else:
                reached.add(target)
    wanted = {ROOT / name for name in tracked() if name.startswith("docs/") and not name.endswith(".py")}
    assert sorted(wanted - reached) == []


# Versions


def test_the_citation_is_of_this_version():
    """What CFF 1.2.0 demands, and that the version is ours."""
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", "Apache-2.0")
    assert citation["authors"] == [{"name": "The qkv authors"}]
    assert citation["version"] == qkv.__version__


def test_the_changelog_has_a_form_and_knows_this_version():
    headings = re.findall(r"^## (.*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    assert all(versions)
    assert versions[0][1] == qkv.__version__
    dates = [version[2] for version in versions]
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text("CHANGELOG.md"), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# Hooks before a commit


CONFIGURATION = yaml.safe_load(text(".pre-commit-config.yaml"))


def hooks() -> list[dict]:
    (repository,) = CONFIGURATION["repos"]
    assert repository["repo"] == "local"  # whatever else would be fetched
    return repository["hooks"]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_hooks_run_what_there_is_and_find_nothing(hook):
    if hook["language"] == "pygrep":
        forbidden = re.compile(hook["entry"].encode(), re.MULTILINE if "--multiline" in hook.get("args", []) else 0)
        excluded = re.compile("|".join(filter(None, (CONFIGURATION["exclude"], hook.get("exclude"))))).search
        for name in tracked():
            content = (ROOT / name).read_bytes()
            parts = [content] if "--multiline" in hook.get("args", []) else content.split(b"\n")
            if not excluded(name) and b"\0" not in content and content:
                assert not any(map(forbidden.search, parts)), name
        return
    assert hook["language"] == "system"
    command = hook["entry"].split()
    if command[0] == "make":
        assert re.search(rf"^{command[1]}:", text("Makefile"), re.MULTILINE)
    else:
        assert Path(command[0]).parent == Path(".venv/bin")  # where `make setup` puts it
        assert (Path(sys.executable).parent / Path(command[0]).name).is_file()
