"""Alignment error rate of cross-attention on pairs whose word alignment is known because the languages are made up.
Trains a small Transformer, links words by every head, and compares the best with what needs no attention.
Writes benchmarks/results/alignment.json and prints the tables of RESULTS.md.

    python benchmarks/alignment.py [--steps 1500] [--seed 1]
"""

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import record
from alignment_language import Language, Phrase

import qkv
from qkv.files import write_text
from qkv.inspection.alignment import Gold, Link, align, alignment_error_rate, links_of, rank_heads
from qkv.inspection.attribution import METHODS, attribution_scores
from qkv.inspection.forced import record_pairs
from qkv.measuring.environment import Environment
from qkv.run.checkpoint import read_description
from qkv.run.directory import Run
from qkv.translator import Translator

TRAINING, HALF = 20_000, 300
Links = list[set[Link]]


def trained(training: Sequence[Phrase], validation: Sequence[Phrase], options: argparse.Namespace, path: Path) -> Run:
    """A small Transformer that has read these pairs."""
    for name, part in (("train", training), ("validation", validation)):
        write_text(path.parent / f"{name}.tsv", "".join("{}\t{}\n".format(*texts(one)) for one in part))
    sizes = {"d_model": 64, "num_heads": 4, "d_ff": 128, "encoder_layers": 2, "decoder_layers": 2}
    return qkv.train(
        {
            "run": str(path),
            "seed": options.seed,
            "threads": 1,
            "data": {"root": str(path.parent), "train": "train.tsv", "validation": "validation.tsv"},
            "tokenizer": {"kind": "word", "joint": False},
            "model": sizes | {"dropout": 0.0, "norm_position": "pre", "tie": "target"},
            "training": {
                "steps": options.steps,
                "batch_tokens": 1024,
                "learning_rate": 4e-3,
                "warmup_steps": 150,
                "schedule": "cosine",
            },
            "validation": {"samples": 1},
        }
    )


def texts(sentence: Phrase) -> tuple[str, str]:
    """Source and target as text."""
    return " ".join(sentence.source), " ".join(sentence.target)


# What links words


def by_matrix(sentences: Sequence[Phrase], matrices: Iterable[np.ndarray]) -> Links:
    """Links by (target, source) matrices; a token is a word, and the source's last column is its end."""
    pairs = zip(sentences, matrices, strict=True)
    return [links_of(matrix, range(len(one.source)), range(len(one.target))) for one, matrix in pairs]


def diagonal(sentences: Sequence[Phrase]) -> Links:
    """Each target word to the source word at the same share of the sentence."""
    return [{(j * len(one.source) // len(one.target), j) for j in range(len(one.target))} for one in sentences]


def at_random(sentences: Sequence[Phrase], seed: int) -> Links:
    """Each target word to any source word."""
    generator = random.Random(seed)
    return [{(generator.randrange(len(one.source)), j) for j in range(len(one.target))} for one in sentences]


def one_each(sentences: Sequence[Phrase]) -> Links:
    """A right source word for each target word that has one: as good as one link a target word can be."""
    found = []
    for one in sentences:
        of = {target: source for links in (one.possible, one.sure) for source, target in sorted(links)}
        found.append({(source, target) for target, source in of.items()})
    return found


def ibm_model_1(training: Sequence[Phrase], sentences: Sequence[Phrase], rounds: int = 5) -> Links:
    """What counting makes of the training pairs (Brown et al. 1993): p(target word | source word or none), by EM."""
    none = ""
    table: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    for _ in range(rounds):
        counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for one in training:
            sources = (*one.source, none)
            for word in one.target:
                shares = [table[source][word] for source in sources]
                total = sum(shares)
                for source, share in zip(sources, shares, strict=True):
                    counts[source][word] += share / total
        table = defaultdict(lambda: defaultdict(float))
        for source, row in counts.items():
            total = sum(row.values())
            table[source].update({word: count / total for word, count in row.items()})
    return by_matrix(
        sentences,
        (
            np.array([[table[source][word] for source in (*one.source, none)] for word in one.target])
            for one in sentences
        ),
    )


def averages(translator: Translator, sentences: Sequence[Phrase], chosen: Sequence[Phrase]) -> dict[str, Links]:
    """Links by the mean of all heads, and of each layer's, at the step that is better on the sentences to choose by."""
    here, there = weights_of(translator, sentences), weights_of(translator, chosen)
    layers = range(here[0].shape[0])
    groups = {"all heads": list(layers), **{f"the heads of layer {layer + 1}": [layer] for layer in layers}}
    found = {}
    for name, group in groups.items():

        def links(of: Sequence[Phrase], weights: Sequence[np.ndarray], step: int, group: list[int] = group) -> Links:
            return by_matrix(of, [one[group].mean(axis=(0, 1))[step:] for one in weights])

        rates = [alignment_error_rate(links(chosen, there, step), golds(chosen)) for step in (0, 1)]
        found[f"mean of {name}"] = links(sentences, here, int(np.argmin(rates)))
    return found


def weights_of(translator: Translator, sentences: Sequence[Phrase]) -> list[np.ndarray]:
    """Cross-attention, (layer, head, target, source), of each."""
    return [one.attention["cross"] for one in record_pairs(translator, ids_of(translator, sentences), kinds=["cross"])]


def ids_of(translator: Translator, sentences: Sequence[Phrase]) -> list[tuple[list[int], list[int]]]:
    """Token ids of source and target."""
    sides = list(zip(*map(texts, sentences), strict=True))
    return list(zip(translator.encode(sides[0], "source"), translator.encode(sides[1], "target"), strict=True))


def attributed(translator: Translator, sentences: Sequence[Phrase], method: str) -> Links:
    """Each target word to the source word that speaks most for it."""
    ids = ids_of(translator, sentences)
    scores = (attribution_scores(translator, *pair, method).clip(min=0.0) for pair in ids)
    return by_matrix(sentences, scores)


def golds(sentences: Sequence[Phrase]) -> list[Gold]:
    """What is right."""
    return [Gold(one.sure, one.possible) for one in sentences]


# The comparison


def measured(translator: Translator, parts: dict[str, Sequence[Phrase]], seed: int) -> dict[str, Any]:
    """Every head, best first on the sentences to choose by, and the others: rates on the sentences to report on."""
    choosing, reporting = parts["choosing"], parts["reporting"]
    truth, pairs = golds(reporting), list(map(texts, reporting))
    ranking = rank_heads(translator, list(map(texts, choosing)), golds(choosing))
    rates = {head: alignment_error_rate(align(translator, pairs, head=head).links, truth) for head, _ in ranking}
    unguided = align(translator, list(map(texts, choosing))).head
    others = {
        "random": at_random(reporting, seed),
        "diagonal": diagonal(reporting),
        **averages(translator, reporting, choosing),
        **{method: attributed(translator, reporting, method) for method in METHODS},
        "IBM model 1": ibm_model_1(parts["training"], reporting),
        "one right link a target word": one_each(reporting),
    }
    return {
        "best_head": {"name": str(ranking[0][0]), "aer": rates[ranking[0][0]], "aer_when_chosen": ranking[0][1]},
        "head_by_occlusion": {"name": str(unguided), "aer": rates[unguided]},
        "others": {name: alignment_error_rate(links, truth) for name, links in others.items()},
        "heads": [{**asdict(head), "aer": rate} for head, rate in rates.items()],
    }


def tables(result: dict[str, Any]) -> Iterator[str]:
    """The tables of RESULTS.md, in percent."""
    yield "| words linked by | AER % |\n| --- | --- |"
    yield f"| best head: {result['best_head']['name']} | {100 * result['best_head']['aer']:.1f} |"
    chosen = result["head_by_occlusion"]
    yield f"| head chosen without gold, by occlusion: {chosen['name']} | {100 * chosen['aer']:.1f} |"
    yield from (f"| {name} | {100 * rate:.1f} |" for name, rate in result["others"].items())
    rates = {(one["layer"], one["shifted"], one["head"]): one["aer"] for one in result["heads"]}
    heads = sorted({head for *_, head in rates})
    yield f"\n| layer and step | {' | '.join(f'head {head}' for head in heads)} |\n| --- |{' --- |' * len(heads)}"
    for layer, shifted in sorted({place[:2] for place in rates}):
        cells = " | ".join(f"{100 * rates[layer, shifted, head]:.1f}" for head in heads)
        yield f"| {layer}, {'reads the word' if shifted else 'predicts the word'} | {cells} |"


def main() -> None:
    """Train, align, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of the training")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    language = Language(options.seed)
    sentences = list(dict.fromkeys(language.sentence() for _ in range(TRAINING + 2 * HALF)))
    parts = {
        "choosing": sentences[:HALF],
        "reporting": sentences[HALF : 2 * HALF],
        "training": sentences[2 * HALF :],
    }
    with tempfile.TemporaryDirectory() as path:
        began = time.process_time()
        run = trained(parts["training"], parts["choosing"], options, Path(path) / "run")
        processor_seconds = time.process_time() - began
        training = read_description(run.find_checkpoint("last"))["training"]
        translator = qkv.load(run.path)
        outputs = translator.translate([texts(one)[0] for one in parts["reporting"]], beam=1)
    right = sum(output == texts(one)[1] for output, one in zip(outputs, parts["reporting"], strict=True))
    truth = golds(parts["reporting"])
    result = {
        "environment": asdict(Environment.here("cpu")),
        "seed": options.seed,
        "pairs": {name: len(part) for name, part in parts.items()},
        "reporting": {
            "target_words": sum(len(one.target) for one in parts["reporting"]),
            "sure_links": sum(len(one.sure) for one in truth),
            "possible_links": sum(len(one.possible) for one in truth),
        },
        "training": {
            "processor_seconds": round(processor_seconds, 1),
            **{name: training[name] for name in ("step", "target_tokens", "epoch")},
        },
        "exact_match": right / HALF,
        **measured(translator, parts, options.seed),
    }
    write_text(record.RESULTS / "alignment.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"exact match {100 * result['exact_match']:.1f} %", *tables(result), sep="\n")


if __name__ == "__main__":
    main()
