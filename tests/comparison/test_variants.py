"""What is varied: values between commas, names of directories, every combination, all of it checked."""

from pathlib import Path

import pytest

from qkv.comparison.variants import as_text, join_values, make_variants, name_of, read_vary, split_values
from qkv.errors import UserError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a", ["a"]),
        ("a,b, c", ["a", "b", "c"]),
        ("[bleu, chrf],[wer]", ["[bleu, chrf]", "[wer]"]),
        ("{kind: char, joint: true},{a: [1, 2]}", ["{kind: char, joint: true}", "{a: [1, 2]}"]),
        ("'x,y',\"[\",z", ["'x,y'", '"["', "z"]),
        ("a,", ["a", ""]),
    ],
)
def test_values_are_split_at_commas_outside_of_brackets_and_quotes(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize("values", [["a", "b"], ["[a, b]", "c"], ["x,y", "z"], ["{a: 1, b: 2}"]])
def test_a_comma_in_a_value_survives_the_command_line(values):
    again = split_values(join_values(values))
    assert [value.strip('"') for value in again] == values


def test_vary_is_key_and_values():
    assert read_vary(["model.norm=layer,none", "seed=1"]) == {"model.norm": ["layer", "none"], "seed": ["1"]}


@pytest.mark.parametrize("text", ["model.norm", "=a,b", ""])
def test_vary_without_key_or_value(text):
    with pytest.raises(UserError, match="write KEY=VALUE,VALUE"):
        read_vary([text])


def test_vary_of_one_key_twice():
    with pytest.raises(UserError, match="--vary seed stands there twice"):
        read_vary(["seed=1", "seed=2"])


def test_python_values_become_text():
    vary = {"model.dropout": [0.1, 0], "model.tie": ["all", None], "training.betas": [[0.9, 0.98]], "x": [True]}
    assert as_text(vary) == {
        "model.dropout": ["0.1", "0"],
        "model.tie": ["all", "null"],
        "training.betas": ["[0.9, 0.98]"],
        "x": ["true"],
    }


def test_names_are_short():
    assert name_of({"model.architecture": "gru-attention", "seed": "2"}) == "architecture=gru-attention,seed=2"


def test_names_of_keys_that_end_alike_are_whole():
    names = name_of({"tokenizer.source.kind": "char", "tokenizer.target.kind": "word"})
    assert names == "tokenizer.source.kind=char,tokenizer.target.kind=word"


def test_names_are_safe_and_keep_different_values_apart():
    values = ["a/b", "a b", "a|b", "../..", "x" * 500, "x" * 501, "[0.9, 0.98]", "a-b"]
    names = [name_of({"key": value}) for value in values]
    assert len(set(names)) == len(names)
    for name in names:
        assert Path(name).name == name
        assert len(name.encode()) < 100
        assert not set(name) & set(" /\\|:*?\"<>'")


def test_every_combination_is_a_variant(recipe, tmp_path):
    vary = {"model.norm_position": ["pre", "post"], "num_heads": ["1", "2"]}
    variants = make_variants(recipe, vary, ["training.steps=7"], tmp_path)
    assert [variant.name for variant in variants] == [
        "norm_position=pre,num_heads=1",
        "norm_position=pre,num_heads=2",
        "norm_position=post,num_heads=1",
        "norm_position=post,num_heads=2",
    ]
    last = variants[-1].config
    assert last.model.model_extra["norm_position"] == "post"
    assert last.model.model_extra["num_heads"] == 2
    assert last.training.steps == 7
    assert last.run == str(tmp_path / variants[-1].name)


@pytest.mark.parametrize(
    ("vary", "complaint"),
    [
        ({}, "nothing is varied"),
        ({"run": ["a", "b"]}, "run cannot be varied"),
        ({"seed": ["1", ""]}, "--vary seed: a value is missing"),
        ({"seed": []}, "--vary seed: a value is missing"),
        ({"seed": ["1", "2", "1"]}, "--vary seed: 1 stands there twice"),
        ({"model.architecture": ["transformer", "transfromer"]}, "did you mean transformer?"),
        ({"model.d_modl": ["1"]}, "did you mean model.d_model?"),
        ({"training.steps": ["5", "many"]}, "training.steps: must be an integer, got 'many'"),
    ],
)
def test_what_cannot_be_varied(vary, complaint, recipe, tmp_path):
    with pytest.raises(UserError) as raised:
        make_variants(recipe, vary, [], tmp_path)
    assert complaint in str(raised.value)
