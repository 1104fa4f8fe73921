"""What `scale.py` measures, one stage to a process: `python scale_stages.py STAGE DIRECTORY [NUMBER]`.

A stage prints one JSON object. DIRECTORY holds the generated corpus and the run that learns from it.
"""

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = 1
WORDS = 50_000
LONGEST = 8  # words of a sentence; the shortest has two
AT_ONCE = 100_000
BATCH_TOKENS = 4096


def config(directory: Path, steps: int = 1) -> Any:
    """A tiny Transformer that learns from the generated corpus."""
    from qkv.config.loading import load_config

    return load_config(
        {
            "run": directory / "run",
            "seed": SEED,
            "device": "cpu",
            "data": {"train": {"source": directory / "train.source", "target": directory / "train.target"}},
            "tokenizer": {"kind": "bpe", "vocab_size": 8000},
            "model": {"d_model": 64, "num_heads": 4, "d_ff": 128, "encoder_layers": 1, "decoder_layers": 1},
            "training": {"steps": steps, "batch_tokens": BATCH_TOKENS},
            "checkpoints": {"keep": 1},
        }
    )


def sentences(pairs: int, seed: int = SEED) -> Iterator[tuple[str, str]]:
    """Made-up sentences and their word-by-word translations; the frequency of a word is as 1 / its rank (Zipf 1949)."""
    chance = random.Random(seed)
    spellings = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(2 * WORDS)
    ]
    source, target = np.array(spellings[:WORDS], object), np.array(spellings[WORDS:], object)
    rising = np.cumsum(1 / np.arange(1, WORDS + 1))
    generator = np.random.default_rng(seed)
    for done in range(0, pairs, AT_ONCE):
        lengths = generator.integers(2, LONGEST + 1, min(AT_ONCE, pairs - done))
        ranks = np.searchsorted(rising, generator.random(int(lengths.sum())) * rising[-1])
        ends = np.cumsum(lengths).tolist()
        sources, targets = source[ranks].tolist(), target[ranks].tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield " ".join(sources[start:end]), " ".join(targets[start:end])


def generate(directory: Path, pairs: int) -> dict[str, Any]:
    """Write the corpus."""
    directory.mkdir(parents=True)
    names = directory / "train.source", directory / "train.target"
    with names[0].open("w", encoding="utf-8") as source, names[1].open("w", encoding="utf-8") as target:
        for one, other in sentences(pairs):
            source.write(one + "\n")
            target.write(other + "\n")
    return {"megabytes": sum(name.stat().st_size for name in names) / 1e6}


def learn(directory: Path, _: int) -> dict[str, Any]:
    """Learn the tokenizer, as the start of `qkv train` does."""
    from qkv.files import write_text
    from qkv.run.directory import Run
    from qkv.run.preparation import pair_files
    from qkv.text.corpus import read_pairs
    from qkv.text.tokenizer import Tokenizers

    recipe = config(directory)
    run = Run(recipe.run)
    began = time.perf_counter()
    pairs = read_pairs(pair_files(recipe, "train"))
    tokenizers = Tokenizers.learn(pairs, run.tokenizer_path, recipe.tokenizer.settings(), seed=recipe.seed)
    seconds = time.perf_counter() - began
    write_text(run.config_path, recipe.to_yaml())
    return {"vocabulary": tokenizers.source.vocab_size, "seconds_learning": seconds}


def encode(directory: Path, _: int) -> dict[str, Any]:
    """Tokenise all pairs to disk."""
    from qkv.run.preparation import prepare, training_corpus

    prepared = prepare(config(directory), resume=True)
    began, busy = time.perf_counter(), time.process_time()
    corpus = training_corpus(prepared, epoch=0)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {
        "seconds_encoding": seconds,
        "lines_per_second": 2 * len(corpus) / seconds,
        "lines_per_cpu_second": 2 * len(corpus) / busy,
        "megabytes": sum(file.stat().st_size for file in corpus.directory.iterdir()) / 1e6,
    }


def read(directory: Path, batches: int) -> dict[str, Any]:
    """Open the encoded corpus, plan an epoch, and make its first `batches` batches."""
    from qkv.run.directory import Run
    from qkv.text.batches import BatchPlan, collate
    from qkv.text.encoded import EncodedCorpus

    run = Run(directory / "run")
    tokenizers = run.tokenizers()
    moments = [time.perf_counter()]
    corpus = EncodedCorpus.open(run.encoded_path("train"))
    moments.append(time.perf_counter())
    plan = BatchPlan(corpus.source_lengths, corpus.target_lengths, BATCH_TOKENS, seed=SEED, epoch=0)
    moments.append(time.perf_counter())
    made = [collate(corpus, pairs, tokenizers).num_target_tokens for pairs in itertools.islice(plan, batches)]
    moments.append(time.perf_counter())
    opening, planning, making = np.diff(moments).tolist()
    return {
        "pairs": len(corpus),
        "target_tokens": int(corpus.target_lengths.sum(dtype=np.int64)),
        "batches_of_the_epoch": len(plan),
        "batches_made": len(made),
        "seconds_opening": opening,
        "seconds_planning": planning,
        "milliseconds_a_batch": 1e3 * making / len(made),
    }


def train(directory: Path, steps: int) -> dict[str, Any]:
    """Go on with the run, as `qkv train --resume` does, up to step `steps`; its start counts from the process's."""
    from qkv.training import trainer

    loop = trainer.Trainer._steps
    asked: list[float] = []
    given: list[float] = []
    busy: list[float] = []

    def timed(self: Any) -> Iterator[Any]:
        batches = loop(self)
        while True:
            asked.append(time.time())
            step = next(batches, None)
            given.append(time.time())
            busy.append(time.process_time())
            if step is None:
                return
            yield step

    trainer.Trainer._steps = timed
    trainer.resume(_with_steps(directory, steps), progress=False)
    waited = sum(end - start for start, end in list(zip(asked, given, strict=True))[1:-1])
    return {
        "seconds_to_the_first_batch": given[0] - _began(),
        "processor_seconds_to_the_first_batch": busy[0],
        "seconds_to_the_end_of_the_first_step": asked[1] - _began(),
        "seconds_planning_and_first_batch": given[0] - asked[0],
        "steps": len(given) - 1,
        "milliseconds_a_step": 1e3 * (asked[-1] - asked[1]) / (len(given) - 2),
        "share_of_waiting_for_data": waited / (asked[-1] - asked[1]),
    }


def _with_steps(directory: Path, steps: int) -> Path:
    from qkv.files import write_text

    write_text(directory / "run" / "config.yaml", config(directory, steps).to_yaml())
    return directory / "run"


def _began() -> float:
    return float(os.environ["SCALE_BEGAN"])


def tokenise(directory: Path, threads: int) -> dict[str, Any]:
    """Tokenise 200,000 lines at most on so many processors."""
    from qkv.run.directory import Run
    from qkv.text.corpus import read_lines

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    tokenizer = Run(directory / "run").tokenizers().source
    lines = list(itertools.islice(read_lines(directory / "train.source"), 200_000))
    began, busy = time.perf_counter(), time.process_time()
    for start in range(0, len(lines), 8192):
        tokenizer.encode(lines[start : start + 8192])
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {
        "processors": len(os.sched_getaffinity(0)),
        "lines_per_second": len(lines) / seconds,
        "lines_per_cpu_second": len(lines) / busy,
    }


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    stage.__name__: stage for stage in (generate, learn, encode, read, train, tokenise)
}

if __name__ == "__main__":
    print(json.dumps(STAGES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
