"""From a comparison of architectures, the numbers of the lineage: quality on all and on long sources, and speed.

    qkv compare recipes/lineage/multi30k.yaml --vary model.architecture=gru,gru-attention,convolutional,transformer
    python benchmarks/lineage.py runs/compare-multi30k [--threads 2]

Scores come from the comparison's runs. Training speed is measured anew: all architectures learn from the same batches
in turn, three rounds of it, so that whatever else the machine does falls on each alike; the median is kept. Writes
benchmarks/results/lineage.json, one object per architecture.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import record
import torch
from tqdm import tqdm

import qkv
from qkv.evaluation.evaluate import evaluate
from qkv.metrics.translation import BLEU
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import load_model
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.batches import Batch, BatchPlan, collate
from qkv.text.encoded import EncodedCorpus
from qkv.training.loss import batch_loss
from qkv.training.optimization import Optimization

LONG = 20  # tokens of the recipe's own vocabulary: a source with more is a long one
BATCHES, ROUNDS = 12, 3


def main() -> None:
    """Score and time every run of the comparison."""
    options = _options()
    rows = json.loads((options.comparison / "comparison.json").read_text("utf-8"))["rows"]
    runs = {row["measurement"]["architecture"]: Run.open(options.comparison / row["name"]) for row in rows}
    alone, speeds = training_speeds(runs, threads=1), training_speeds(runs, options.threads)
    result = {}
    for row in rows:
        found = row["measurement"]
        architecture = found["architecture"]
        bleu = next(score for score in found["scores"] if score["name"] == "bleu")
        result[architecture] = {
            "bleu": round(bleu["value"], 2),
            "signature": bleu["signature"],
            **bleu_by_length(runs[architecture], found["beam"]),
            "parameters": found["parameters"],
            "minutes": round(found["minutes"], 1),
            "target_tokens": found["target_tokens"],
            "target_tokens_per_second": round(speeds[architecture]),
            "threads": options.threads,
            "target_tokens_per_second_one_thread": round(alone[architecture]),
            "target_tokens_per_second_while_training": round(found["tokens_per_second"]),
            "decoding_sentences_per_second": round(found["decoding"]["sentences_per_second"], 1),
            "beam": found["beam"],
        }
    text = json.dumps(result, indent=1)
    print(text)
    (record.RESULTS / "lineage.json").write_text(text + "\n", encoding="utf-8")


def bleu_by_length(run: Run, beam: int) -> dict[str, float | int]:
    """BLEU on the test pairs whose source has more than `LONG` tokens, and on the others."""
    evaluation = evaluate(qkv.load(run.path), pair_files(run.config, "test"), [], beam=beam, progress=True)
    tokens = run.tokenizers().source.encode([pair.source for pair in evaluation.pairs])
    long, short = [], []
    for pair, output, ids in zip(evaluation.pairs, evaluation.outputs, tokens, strict=True):
        (long if len(ids) > LONG else short).append((output, [pair.target]))
    return {
        "bleu_long_sources": round(BLEU(*map(list, zip(*long, strict=True))).value, 2),
        "long_sources": len(long),
        "bleu_other_sources": round(BLEU(*map(list, zip(*short, strict=True))).value, 2),
    }


def training_speeds(runs: dict[str, Run], threads: int) -> dict[str, float]:
    """Real target tokens a second of whole steps, optimizer included: the median over the rounds."""
    torch.set_num_threads(threads)
    config = next(iter(runs.values())).config
    first = next(iter(runs.values()))
    corpus, tokenizers = EncodedCorpus.open(first.encoded_path("train")), first.tokenizers()
    lengths = corpus.source_lengths, corpus.target_lengths
    plan = BatchPlan(*lengths, config.training.batch_tokens, seed=0, epoch=0)[:BATCHES]
    batches = [collate(corpus, indices, tokenizers) for indices in plan]
    learners = {}
    for name, run in runs.items():
        model = load_model(run.find_checkpoint()).train()
        learners[name] = model, Optimization(model, run.config.training, torch.device("cpu"))
        learn(*learners[name], batches[:2], config.training.label_smoothing)
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(ROUNDS), desc="training speed", unit="round"):
        for name, learner in learners.items():
            began = time.perf_counter()
            learn(*learner, batches, config.training.label_smoothing)
            seconds = time.perf_counter() - began
            seen[name].append(sum(batch.num_target_tokens for batch in batches) / seconds)
    return {name: statistics.median(values) for name, values in seen.items()}


def learn(model: Seq2Seq, optimization: Optimization, batches: list[Batch], label_smoothing: float) -> None:
    """A step for each batch; the learning rate is too small to spoil anything."""
    for number, batch in enumerate(batches, start=1):
        optimization.zero_grad()
        loss = batch_loss(model, batch, label_smoothing)
        optimization.backward(loss.smoothed / batch.num_target_tokens)
        optimization.step(number, 1e-6)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="the directory of `qkv compare`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="beside one alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
