import copy
from pathlib import Path

import pytest
import torch
import yaml

from qkv.config.loading import foreign_options, load_config, model_options, spelled_out
from qkv.config.schema import Config, parse_duration
from qkv.errors import UserError
from qkv.nn.architectures import ARCHITECTURES
from qkv.settings import all_keys


def complaint(recipe, *overrides):
    """What is said against a recipe; nothing if all is well."""
    try:
        load_config(recipe, overrides)
    except UserError as error:
        return str(error)
    return ""


def fault(recipe, *overrides):
    """What is said against a recipe that is at fault, in one line."""
    message = complaint(recipe, *overrides)
    assert message
    assert "\n" not in message
    return message.removeprefix("the configuration: ")


def nested(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


# Keys


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sed", "seed"),
        ("trainning", "training"),
        ("training.stepz", "training.steps"),
        ("training.warmup", "training.warmup_steps"),
        ("data.trian", "data.train"),
        ("data.train.sourc", "data.train.source"),
        ("data.validation.formats", "data.validation.format"),
        ("tokenizer.source.vocabsize", "tokenizer.source.vocab_size"),
        ("tokenizer.target.knd", "tokenizer.target.kind"),
        ("model.d_modl", "model.d_model"),
        ("model.architectur", "model.architecture"),
        ("model.presets", "model.preset"),
        ("checkpoints.kep", "checkpoints.keep"),
        ("decoding.length_penality", "decoding.length_penalty"),
        ("evaluation.metric_", "evaluation.metrics"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_at_every_depth(key, nearest):
    expected = f"unknown key {key}; did you mean {nearest}?"
    assert fault(nested(key, "x")) == expected
    assert fault({}, f"{key}=x") == expected


@pytest.mark.parametrize(
    ("key", "homes"),
    [
        ("learning_rate", "training.learning_rate"),
        ("d_model", "model.d_model"),
        ("training.beam", "validation.beam or decoding.beam"),
        ("model.kind", "tokenizer.kind or tokenizer.source.kind or tokenizer.target.kind"),
        ("training.format", "data.train.format or data.validation.format or data.test.format"),
    ],
)
def test_a_key_in_the_wrong_section_is_sent_home(key, homes):
    assert fault(nested(key, 1)) == f"unknown key {key}; did you mean {homes}?"


def test_a_key_like_no_other_lists_those_of_its_section():
    assert fault({"checkpoints": {"xyzzy": 1}}) == "unknown key checkpoints.xyzzy; there are: every, keep"
    assert fault({"model": {"xyzzy": 1}}).startswith(
        "unknown key model.xyzzy; there are: architecture, preset, d_model,"
    )


@pytest.mark.parametrize("recipe", ["5: 1", "training: {yes: 1}", "model: {7: 1}"])
def test_a_key_that_is_no_text_is_unknown(recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(recipe)
    assert ": unknown key " in fault(tmp_path / "r.yaml")


def test_all_keys_are_those_that_a_recipe_can_set():
    keys = list(all_keys(Config))
    assert len(keys) == len(set(keys))
    assert {"seed", "data.train.path", "tokenizer.source.kind", "model.preset", "model.tie", "training.budget"} <= set(
        keys
    )
    assert [key for key in keys if "unknown" in complaint(nested(key, {}))] == []


# Values


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("seed", "lots", "must be an integer, got 'lots'"),
        ("seed", -1, "must be greater than or equal to 0, got -1"),
        ("run", ["a"], "must be text, got ['a']"),
        ("training", 5, "must be a mapping of keys to values, got 5"),
        ("training.steps", 1.5, "must be an integer, got 1.5"),
        ("training.steps", True, "must not be true or false"),
        ("training.learning_rate", "fast", "must be a number, got 'fast'"),
        ("training.learning_rate", 0, "must be greater than 0, got 0"),
        ("training.learning_rate", float("inf"), "must be a finite number, got inf"),
        ("training.clip_norm", float("nan"), "must be a finite number, got nan"),
        ("training.ema", 1.0, "must be less than 1, got 1.0"),
        ("training.optimizer", "sgd", "must be 'adamw', 'adam' or 'muon', got 'sgd'"),
        ("training.betas", 0.9, "must be a list, like [a, b], got 0.9"),
        ("tokenizer.joint", "perhaps", "must be true or false, got 'perhaps'"),
        ("tokenizer.source", "bpe", "must be a mapping of keys to values, got 'bpe'"),
        ("tokenizer.source.kind", "bpee", "unknown kind 'bpee'; did you mean bpe?"),
        ("data.train", 5, "must be a mapping of keys to values, got 5"),
        ("data.train.source", 5, "must be text, got 5"),
        ("data.train.source_column", [1], "must be text, got [1]"),
        ("data.train.format", "csv", "unknown format 'csv'; did you mean tsv?"),
        ("model", "tiny", "must be a mapping of keys to values, got 'tiny'"),
        ("model.architecture", 5, "must be text, got 5"),
        ("model.d_model", "wide", "must be an integer, got 'wide'"),
        ("model.dropout", [0.1], "must be a number, got [0.1]"),
        ("model.tie", "some", "must be 'none', 'target' or 'all', got 'some'"),
        ("model.bias", "perhaps", "must be true or false, got 'perhaps'"),
        ("evaluation.metrics", "bleu", "must be a list, like [a, b], got 'bleu'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_by_its_key(key, value, wanted):
    assert fault(nested(key, value)) == f"{key}: {wanted}"


def test_a_place_in_a_list_is_named():
    assert fault({"training": {"betas": [0.9, 1.0]}}) == "training.betas.1: must be less than 1, got 1.0"
    assert fault({"training": {"betas": [0.9]}}) == "training.betas.1: must be given, got [0.9]"
    assert fault({"evaluation": {"metrics": ["bleu", "blue"]}}) == (
        "evaluation.metrics.1: unknown metric 'blue'; did you mean bleu?"
    )


def test_the_metric_may_be_the_loss_or_any_metric():
    assert fault({"validation": {"metric": "xyzzy"}}).startswith(
        "validation.metric: unknown metric 'xyzzy'; there are: loss, bleu, chrf,"
    )
    assert load_config({"validation": {"metric": "wer"}}).validation.metric == "wer"


def test_a_long_value_is_shortened():
    assert len(fault({"seed": "x" * 10_000})) < 100


def test_an_unknown_architecture_or_preset_suggests_the_nearest():
    assert fault({"model": {"architecture": "transfomer"}}) == (
        "model.architecture: unknown architecture 'transfomer'; did you mean transformer?"
    )
    assert fault({"model": {"architecture": "xyzzy"}}).startswith(
        "model.architecture: unknown architecture 'xyzzy'; there are: transf"
    )
    assert fault({"model": {"preset": "bigg"}}) == "model.preset: unknown preset 'bigg'; did you mean big?"
    assert (
        fault({"model": {"preset": "huge"}}) == "model.preset: unknown preset 'huge'; there are: tiny, small, base, big"
    )


def test_values_that_do_not_fit_together_are_refused():
    assert fault({"model": {"num_heads": 7}}) == "model: d_model (512) must be a multiple of num_heads (7)"
    assert fault({"model": {"dropout": 1.5}}) == "model: dropout must be in [0, 1), got 1.5"
    assert fault({"tokenizer": {"source": {"kind": "char"}}}) == "tokenizer: settings for one side need joint: false"
    assert "sampling needs kind" in fault({"tokenizer": {"kind": "char", "sampling": 0.1}})


def test_two_vocabularies_cannot_share_all_embeddings():
    assert "say model.tie=target (or none), or tokenizer.joint=true" in fault({"tokenizer": {"joint": False}})
    load_config({"tokenizer": {"joint": False}, "model": {"tie": "target"}})
    load_config({"tokenizer": {"joint": False}, "model": {"tie": "none"}})


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), (" 5m ", 300)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert load_config({"training": {"budget": text}}).training.budget == seconds


def test_a_duration_may_be_a_number_of_seconds():
    assert load_config({"training": {"budget": 90}}).training.budget == 90
    assert load_config({"training": {"budget": 0.5}}).training.budget == 0.5


@pytest.mark.parametrize("text", ["", "m", "5", "5x", "1.5h", "30m1h", "-5m", "5m and a bit", "1:30"])
def test_other_texts_are_no_durations(text):
    assert fault({"training": {"budget": text}}) == (
        f'training.budget: a duration is written like "90s", "15m" or "1h30m", not {text!r}'
    )


@pytest.mark.parametrize("value", [0, -5, "0s"])
def test_a_duration_is_longer_than_nothing(value):
    assert fault({"training": {"budget": value}}).startswith("training.budget: must be greater than 0")


# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.steps=1000", 1000),
        ("training.steps=null", None),
        ("training.learning_rate=5e-3", 5e-3),
        ("training.learning_rate=1E-4", 1e-4),
        ("training.learning_rate=.5", 0.5),
        ("training.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("training.schedule=cosine", "cosine"),
        ("tokenizer.joint=true", True),
        ("evaluation.metrics=[wer, per]", ["wer", "per"]),
        ("data.train.path=a=b.txt", "a=b.txt"),
    ],
)
def test_an_override_is_read_as_yaml(override, value):
    found = load_config({}, [override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("override", "full"),
    [
        ("budget=15m", "training.budget=15m"),
        ("preset=tiny", "model.preset=tiny"),
        ("dropout=0.2", "model.dropout=0.2"),
        ("keep=2", "checkpoints.keep=2"),
        ("seed=2", "seed=2"),
        ("train=a.tsv", "data.train=a.tsv"),
    ],
)
def test_a_bare_key_stands_for_the_one_section_that_has_it(override, full):
    assert load_config({}, [override]) == load_config({}, [full]) != load_config({})


def test_a_bare_key_of_several_sections_is_not_guessed():
    assert fault({}, "batch_tokens=100") == (
        "unknown key batch_tokens; did you mean training.batch_tokens or decoding.batch_tokens?"
    )


@pytest.mark.parametrize("value", ["2024", "a: b", "/data/[x]", "true", "a #1", "~"])
def test_names_are_taken_as_they_are(value):
    assert load_config({}, [f"run={value}"]).run == value
    assert load_config({}, [f"data.root={value}"]).data.root == value


def test_overrides_win_over_the_recipe_and_later_ones_over_earlier_ones():
    recipe = {"training": {"steps": 5, "accumulate": 2}, "data": {"train": "a.tsv"}}
    config = load_config(recipe, ["training.steps=6", "steps=7", "data.train.source=a", "data.train.target=b"])
    assert (config.training.steps, config.training.accumulate) == (7, 2)
    assert config.data.train.model_dump(exclude_none=True) == {"source": "a", "target": "b"}
    assert load_config({"data": {"train": {"source": "a", "target": "b"}}}, ["train=c.tsv"]).data.train.path == "c.tsv"


@pytest.mark.parametrize("override", ["training.steps", "=5", ".steps=5", "training.=5", "training..steps=5", ""])
def test_an_override_needs_a_key_and_a_value(override):
    assert fault({}, override) == f"{override!r}: an override is written key=value, like training.steps=1000"


def test_a_value_that_is_no_yaml_stands_for_itself():
    assert load_config({}, ["data.train=[a"]).data.train.path == "[a"


# What a recipe may be


def test_the_callers_mapping_is_not_changed():
    recipe = {
        "training": {"betas": [0.9, 0.98]},
        "data": {"train": {"source": "a", "target": "b"}},
        "model": {"bias": True},
    }
    before = copy.deepcopy(recipe)
    load_config(recipe, ["training.steps=3", "data.train.source=c", "model.d_model=64", "seed=4"])
    assert recipe == before


def test_a_configuration_can_be_changed_without_changing_it():
    config = load_config({"model": {"d_model": 64}})
    changed = load_config(config, ["model.d_model=128"])
    assert config.model.model_extra == {"d_model": 64}
    assert changed.model.model_extra == {"d_model": 128}
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 5


def test_a_column_may_be_a_number():
    recipe = {"data": {"train": {"path": "a.tsv"}}}
    assert load_config(recipe, ["data.train.source_column=2"]).data.train.source_column == "2"


def test_pairs_that_lie_nowhere_are_refused_with_the_recipe():
    for name in ("train", "validation", "test"):
        assert fault({"data": {name: {"source": "a"}}}).startswith(f"data.{name}: pairs: give 'path' (one file), or")
        assert "not both" in fault({"data": {name: {"path": "a.tsv", "source": "a", "target": "b"}}})


def test_paths_may_be_path_objects():
    config = load_config({"run": Path("runs/x"), "data": {"train": Path("a.tsv"), "test": {"path": Path("b.tsv")}}})
    assert (config.run, config.data.train.path, config.data.test.path) == (str(Path("runs/x")), "a.tsv", "b.tsv")


def test_one_file_may_stand_for_its_mapping():
    assert load_config({"data": {"train": "a.tsv"}}) == load_config({"data": {"train": {"path": "a.tsv"}}})


def test_an_empty_recipe_is_all_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == load_config({}) == Config()


def test_a_recipe_is_read_from_yaml(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "\ufeffrun: Läufe\ntraining: {budget: 1h, learning_rate: 2e-3}\nmodel: {preset: tiny, tie: none}\n", "utf-8"
    )
    config = load_config(str(tmp_path / "r.yaml"))
    assert (config.run, config.training.budget, config.training.learning_rate) == ("Läufe", 3600, 2e-3)
    assert (config.model.preset, config.model.model_extra) == ("tiny", {"tie": "none"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run: a\ntraining:\n  steps: 5: 6\n", ":3: not valid YAML: mapping values are not allowed here"),
        (b"run: [a\n", ":2: not valid YAML: expected ',' or ']'"),
        (b"run: a\n\tseed: 1\n", ":2: not valid YAML: found character '\\t' that cannot start any token"),
        (b"run: a\nseed: 1\nrun: b\n", ":3: not valid YAML: the key run stands there twice"),
        (b"training:\n  steps: 1\n  steps: 2\n", ":3: not valid YAML: the key steps stands there twice"),
        (b"run: a\x00b\n", ": not valid YAML: unacceptable character"),
        (b"run: a\n# caf\xe9\nseed: 1\n", ":2: not valid UTF-8; convert it to UTF-8"),
        (b"- run: a\n", ": a recipe is a mapping of keys to values, not a list"),
        (b"run\n", ": a recipe is a mapping of keys to values, not a str"),
        (b"training:\n  stepz: 1\n", ": unknown key training.stepz; did you mean training.steps?"),
        (b"model: {d_modl: 1}\n", ": unknown key model.d_modl; did you mean model.d_model?"),
        (b"seed: lots\n", ": seed: must be an integer, got 'lots'"),
    ],
)
def test_a_fault_in_a_recipe_names_file_and_line(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert fault(path).startswith(f"{path}{message}")


def test_a_recipe_that_is_not_there(tmp_path):
    assert fault(tmp_path / "nowhere.yaml") == f"{tmp_path}/nowhere.yaml: no such recipe"
    assert (
        fault(tmp_path) == f"{tmp_path}: a directory, not a recipe; to go on with a run: qkv train --resume {tmp_path}"
    )
    (tmp_path / "file").touch()
    assert fault(tmp_path / "file" / "x.yaml") == f"{tmp_path}/file/x.yaml: cannot be read (Not a directory)"


# The resolved configuration


def test_the_resolved_configuration_is_read_back_as_it_was(tmp_path):
    recipe = {
        "run": "Läufe/1",
        "data": {"train": {"path": "a.jsonl", "source_column": "en"}, "validation": "b.tsv"},
        "tokenizer": {"joint": False, "source": {"kind": "char"}},
        "model": {"preset": "tiny", "tie": "target", "dropout": 0.25},
        "training": {"budget": "1h30m", "eps": 1e-9, "betas": [0.8, 0.9], "clip_norm": None},
        "evaluation": {"metrics": ["wer"]},
    }
    config = load_config(recipe)
    config = spelled_out(config, model_options(config.model, vocab_size=30, target_vocab_size=40))
    (tmp_path / "config.yaml").write_text(config.to_yaml(), "utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    assert load_config(config) == config


def test_every_default_is_spelled_out():
    config = load_config({"model": {"preset": "tiny", "d_ff": 300}})
    config = spelled_out(config, model_options(config.model, vocab_size=30, target_vocab_size=30))
    spelled = yaml.safe_load(config.to_yaml())
    own = ARCHITECTURES["transformer"].option_names()
    others = {name for architecture in ARCHITECTURES.values() for name in architecture.option_names()} - {*own}
    assert {f"model.{name}" for name in own} <= set(all_keys(Config))
    for key in set(all_keys(Config)) - {f"model.{name}" for name in others}:
        found = spelled
        for name in key.split("."):
            if found is None:  # a section that is not set, as data.train
                break
            found = found[name]
    assert spelled["model"]["d_ff"] == 300, "what the recipe says wins over the preset"
    assert spelled["model"]["d_model"] == 128, "the preset wins over the default"
    assert spelled["model"]["activation"] == "relu"
    assert "vocab_size" not in spelled["model"], "the tokenizer tells"


def test_model_options_are_the_architectures_own():
    options = model_options(load_config({"model": {"preset": "big"}}).model, vocab_size=30, target_vocab_size=30)
    assert (options.d_model, options.num_heads, options.vocab_size) == (1024, 16, 30)
    with pytest.raises(UserError, match="tie=all needs one vocabulary for both sides"):
        model_options(load_config({}).model, vocab_size=30, target_vocab_size=40)


def test_an_option_of_another_architecture_is_left_out():
    """So that any recipe can change its family; what no architecture knows stays an error."""
    model = load_config({"model": {"architecture": "gru", "num_heads": 4, "d_model": 64, "preset": "tiny"}}).model
    options = model_options(model, vocab_size=30, target_vocab_size=30)
    assert (options.cell, options.attention, options.d_model) == ("gru", "none", 64)
    assert foreign_options(model) == ["num_heads"]
    assert fault({"model": {"architecture": "gru", "num_head": 4}}).startswith(
        "unknown key model.num_head; there are: architecture, preset, d_model, encoder_layers,"
    )


def test_what_an_architectures_name_stands_for_cannot_be_changed():
    assert fault({"model": {"architecture": "gru-attention", "cell": "lstm"}}).startswith("unknown key model.cell;")
    model = load_config({"model": {"architecture": "gru", "attention": "additive"}}).model
    assert foreign_options(model) == ["attention"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_spelled_out_and_read_back(name, tmp_path):
    config = load_config({"model": {"architecture": name, "preset": "tiny"}})
    options = model_options(config.model, vocab_size=30, target_vocab_size=30)
    config = spelled_out(config, options)
    (tmp_path / "config.yaml").write_text(config.to_yaml(), "utf-8")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert model_options(again.model, vocab_size=30, target_vocab_size=30) == options


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_presets_of_one_name_are_of_one_size(name):
    """At the vocabulary that each is made for; recurrent `base` models are smaller by what is not in embeddings."""
    for preset, vocab_size in (("tiny", 8000), ("small", 8000), ("base", 37000)):
        sizes = []
        for other in ("transformer", name):
            model = load_config({"model": {"architecture": other, "preset": preset}}).model
            options = model_options(model, vocab_size=vocab_size, target_vocab_size=vocab_size)
            with torch.device("meta"):
                sizes.append(sum(p.numel() for p in ARCHITECTURES[other].build(options).parameters()))
        assert 0.85 < sizes[1] / sizes[0] < 1.15, preset
