"""A model that has learnt to reverse words shows it: maps, attributions and alignments run along the anti-diagonal."""

import json
import random

import numpy as np
import pytest

import qkv
from qkv.cli import main
from qkv.inspection.alignment import Gold, align, alignment_error_rate, rank_heads
from qkv.inspection.attention_maps import inspect
from qkv.inspection.attribution import attribute

pytestmark = pytest.mark.usefixtures("without_shape_checks")

LETTERS = "abcdefgh"


def different_words(count, seed):
    generator = random.Random(seed)
    words = set()
    while len(words) < count:
        words.add("".join(generator.choices(LETTERS, k=generator.randint(3, 7))))
    return generator.sample(sorted(words), count)


@pytest.fixture(scope="module")
def words():
    return different_words(4400, seed=7)


@pytest.fixture(scope="module")
def run(words, tmp_path_factory, without_shape_checks):
    path = tmp_path_factory.mktemp("reverse")
    (path / "train.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words[:4000]), "utf-8")
    sizes = {"d_model": 64, "num_heads": 4, "d_ff": 128, "encoder_layers": 2, "decoder_layers": 2}
    pace = {"batch_tokens": 512, "learning_rate": 4e-3, "warmup_steps": 80, "schedule": "cosine"}
    trained = qkv.train(
        {
            "run": str(path / "run"),
            "threads": 1,
            "data": {"train": str(path / "train.tsv")},
            "tokenizer": {"kind": "char"},
            "model": {**sizes, "dropout": 0.0, "norm_position": "pre"},
            "training": {**pace, "steps": 700, "label_smoothing": 0.0},
            "validation": {"every": 10_000},
        },
        progress=False,
    )
    return str(trained.path)


@pytest.fixture(scope="module")
def translator(run):
    return qkv.load(run)


@pytest.fixture(scope="module")
def unseen(words, translator):
    """Words that the model has never read, and that it reverses."""
    right = [word for word in words[4000:] if translator.translate(word) == word[::-1]]
    assert len(right) > 380
    return right


def anti_diagonal(length):
    links = frozenset((length - 1 - target, target) for target in range(length))
    return Gold(links, links)


def share_on_anti_diagonal(matrices):
    """Of all rows but that of the end of sentence: how many are largest where a reversal must look."""
    right = [
        column == len(matrix) - 2 - row for matrix in matrices for row, column in enumerate(matrix[:-1].argmax(axis=1))
    ]
    return float(np.mean(right))


def test_a_head_runs_along_the_anti_diagonal(translator, unseen):
    shown = [inspect(translator, word).attention["cross"] for word in unseen[:50]]
    shares = {
        (layer, head): share_on_anti_diagonal([weights[layer, head] for weights in shown])
        for layer in range(2)
        for head in range(4)
    }
    assert max(shares.values()) > 0.9, shares


def test_the_best_head_aligns_words_it_was_not_chosen_on(translator, unseen):
    pairs = [(word, word[::-1]) for word in unseen]
    truth = [anti_diagonal(len(word)) for word in unseen]
    head, rate = rank_heads(translator, pairs[:100], truth[:100])[0]
    assert rate < 0.1
    found = align(translator, pairs[100:], head=head)
    rate = alignment_error_rate(found.links, truth[100:])
    print(f"alignment error rate of {head}: {rate:.4f} on {len(pairs) - 100} words")  # shown by pytest -s
    assert rate < 0.1


def test_the_head_that_occlusion_chooses_aligns_as_well(translator, unseen):
    pairs = [(word, word[::-1]) for word in unseen[:40]]
    found = align(translator, pairs)
    assert alignment_error_rate(found.links, [anti_diagonal(len(word)) for word in unseen[:40]]) < 0.1


def test_the_letter_whose_absence_costs_most_is_the_mirrored_one(translator, unseen):
    """For most letters; one of five would be by chance. Slopes vanish where a model is as sure as this one is."""
    scores = [attribute(translator, word, method="occlusion").scores for word in unseen[:50]]
    assert share_on_anti_diagonal(scores) > 0.5


# On the command line


def test_attention_prints_and_writes(run, translator, tmp_path, capsys):
    assert main(["attention", run, "abcde", "--threads", "1", "--kind", "cross", "--layer", "2", "--head", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    inspection = qkv.inspect(translator, "abcde")
    assert lines[0] == inspection.translation
    assert [line.split("\t")[:4] for line in lines[1:]] == [
        ["cross", "2", "1", token] for token in inspection.target_tokens
    ]
    for suffix in ("html", "png", "json", "npz"):
        assert main(["attention", run, "abcde", "--target", "ed", "--output", str(tmp_path / f"maps.{suffix}")]) == 0
        assert (tmp_path / f"maps.{suffix}").stat().st_size > 500
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "maps.json").read_text("utf-8"))["translation"] == "ed"


def test_align_writes_pharaoh_lines(run, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("abcd\tdcba\n\t\nhg\tgh\n", "utf-8")
    (tmp_path / "gold").write_text("0-3 1-2 2-1 3-0\n\n1-0 0-1\n", "utf-8")
    data = ["align", run, "--threads", "1", "--data", str(tmp_path / "pairs.tsv")]
    assert main([*data, "--gold", str(tmp_path / "gold"), "--output", str(tmp_path / "links")]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("layer ")
    assert "the lowest alignment error rate of all heads, 0." in captured.err
    lines = (tmp_path / "links").read_text("utf-8").splitlines()
    assert lines[0] == "0-3 1-2 2-1 3-0"
    assert lines[1] == ""
    assert main([*data, "--layer", "1", "--head", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("attention RUN ab --kind encodr", "unknown kind of attention 'encodr'"),
        ("attention RUN ab --layer 3", "there is no encoder layer 3"),
        ("attention RUN ab --output maps.gif", "maps.gif: write a .html, .json, .npz or .png file"),
        ("align RUN", "RUN: its recipe has no data.test"),
        ("align RUN --data DATA --layer 1", "--layer and --head go together"),
        ("align RUN --data DATA --shifted", "--shifted goes with --layer and --head"),
        ("align RUN --data DATA --layer 1 --head 1 --gold DATA", "--gold chooses a head"),
        ("align RUN --data DATA --gold DATA", "alignments, line 1: 'abcd' is no link"),
    ],
)
def test_what_is_refused_in_one_line(arguments, complaint, run, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("abcd\tdcba\n", "utf-8")
    names = {"RUN": run, "DATA": str(tmp_path / "pairs.tsv")}
    assert main([names.get(argument, argument) for argument in arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"qkv: {complaint.replace('RUN', run)}")
    assert captured.err.count("\n") == 1
