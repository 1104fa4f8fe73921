"""recipes/reference.yaml documents every key: meaning, default, choices."""

from pathlib import Path

import pytest
import yaml

from qkv.config.loading import load_config, model_options, spelled_out
from qkv.config.reference import attributes, render
from qkv.config.schema import Config
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.transformer import PRESETS, TransformerConfig
from qkv.settings import all_keys, section_of

FILE = Path(__file__).parents[2] / "recipes" / "reference.yaml"


@pytest.fixture(scope="module")
def reference():
    return FILE.read_text(encoding="utf-8")


def sections(section=Config):
    yield section
    for name in section.model_fields:
        if (inner := section_of(section, name)) is not None:
            yield from sections(inner)


def test_the_file_is_what_the_schema_says(reference):
    assert reference == render(), "write it anew: python -m qkv.config.reference > recipes/reference.yaml"


def test_it_is_a_recipe_of_all_defaults():
    config = Config()
    options = model_options(config.model, vocab_size=8000, target_vocab_size=8000)
    assert load_config(FILE) == spelled_out(config, options)


def test_every_key_stands_in_it_below_a_comment(reference):
    lines = reference.splitlines()
    for key in all_keys(Config):
        if key.startswith(("data.validation.", "data.test.", "tokenizer.target.")):
            continue  # these have the keys of data.train and tokenizer.source, and say so
        name = key.rpartition(".")[2]
        places = [i for i, line in enumerate(lines) if line.lstrip(" #").startswith(f"{name}:")]
        assert places, key
        assert all(lines[i - 1].lstrip(" #") for i in places), f"{name} needs a comment"
    for key in ("data.train", "tokenizer.source"):
        assert f"the same keys as {key}" in reference


@pytest.mark.parametrize("section", dict.fromkeys(sections()))
def test_every_key_has_a_meaning(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description or section_of(section, name), name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_option_of_an_architecture_has_a_meaning(name):
    architecture = ARCHITECTURES[name]
    meanings = attributes(architecture.config)
    assert [option for option in architecture.option_names() if not meanings.get(option)] == []


def test_the_meaning_of_an_option_is_that_of_its_docstring():
    meanings = attributes(TransformerConfig)
    assert meanings["d_model"] == "width of every token's vector."
    assert meanings["vocab_size"] == "number of source tokens."

    class Documented:
        """A class.

        Attributes:
            one: a meaning
                on two lines.
            two: another: with a colon.

        Raises:
            ValueError: never.
        """

    assert attributes(Documented) == {"one": "a meaning on two lines.", "two": "another: with a colon."}
    assert attributes(object) == {}


def test_what_is_commented_out_is_valid_too(reference):
    """Without the first `# `, the example of data.train is a mapping with the keys that the schema has."""
    lines = reference.splitlines()
    start = lines.index("  # train:")
    example = [line.replace("# ", "", 1) for line in lines[start : start + 1 + 2 * 7]]
    assert list(yaml.safe_load("\n".join(example))["train"]) == list(
        section_of(section_of(Config, "data"), "train").model_fields
    )


def test_choices_and_presets_are_listed(reference):
    assert "choices: adamw, adam, muon\n  optimizer: adamw" in reference
    unwrapped = reference.replace("\n  # ", " ")
    assert "choices: loss, bleu, chrf, ter, wer, per, cer, residues, exact_match\n  metric: loss" in unwrapped
    assert "choices: tiny, small, base, big\n  preset: null" in reference
    for name, preset in PRESETS.items():
        assert f"# {name}: {', '.join(f'{option} {value}' for option, value in preset.items())}\n" in reference
