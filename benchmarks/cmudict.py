"""Score a CMUdict run on test words it has never seen: a word is right if it equals any of its pronunciations.

    python benchmarks/cmudict.py runs/cmudict [--data ../shared/data/cmudict] [--beam 5]

Writes benchmarks/results/RUN.json.
"""

import argparse
import json
import time
from pathlib import Path

import qkv
from qkv.evaluation import evaluate
from qkv.run import Run
from qkv.text.corpus import PairFiles, read_pairs
from qkv.training.checkpoint import read_description

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Pronounce the test words with a run and print and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cmudict"))
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--checkpoint", default=None)
    options = parser.parse_args()

    trained_on = {pair.source for pair in read_pairs(options.data / "train.tsv")}
    seen = trained_on & {pair.source for pair in read_pairs(options.data / "test.tsv")}
    assert not seen, f"test words that were trained on: {sorted(seen)[:5]}"

    translator = qkv.load(options.run, checkpoint=options.checkpoint)
    began = time.perf_counter()
    result = evaluate(translator, PairFiles(options.data / "test.tsv"), ["wer", "per"], beam=options.beam)
    seconds = time.perf_counter() - began
    words = len({pair.source for pair in result.pairs})

    run = Run.open(options.run)
    training = read_description(run.checkpoints()[-1])["training"]
    speeds = sorted(line["tokens_per_second"] for line in run.metrics() if line["event"] == "train")
    report = {
        "wer": round(result.scores["wer"].value, 2),
        "per": round(result.scores["per"].value, 2),
        "words": words,
        "minutes": round(training["seconds"] / 60, 1),
        "target_tokens_per_second": round(speeds[len(speeds) // 2]),
        "target_tokens": training["target_tokens"],
        "epochs": training["epoch"],
        "parameters": sum(p.numel() for p in translator.model.parameters()),
        "beam": options.beam,
        "decoding_words_per_second": round(words / seconds, 1),
        "threads": run.config.threads,
        "command": f"qkv train recipes/{Path(options.run).name}.yaml && python benchmarks/cmudict.py {options.run}",
    }
    print(json.dumps(report, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{Path(options.run).name}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
