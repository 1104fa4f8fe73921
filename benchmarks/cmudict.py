"""Score a CMUdict run on test words it has never seen: a word is right if it equals any of its pronunciations.
Writes benchmarks/results/RUN.json.

    python benchmarks/cmudict.py runs/cmudict [--data data/cmudict] [--beam 5]
"""

import time

import record

import qkv
from qkv.evaluation.evaluate import evaluate
from qkv.run.directory import Run
from qkv.text.corpus import PairFiles, read_pairs


def main() -> None:
    """Pronounce the test words with a run, and print and write the scores."""
    options = record.options(__doc__, data="data/cmudict")
    trained_on = {pair.source for pair in read_pairs(options.data / "train.tsv")}
    words = {pair.source for pair in read_pairs(options.data / "test.tsv")}
    assert not trained_on & words, f"test words that were trained on: {sorted(trained_on & words)[:5]}"

    translator = qkv.load(options.run, checkpoint=options.checkpoint)
    began = time.perf_counter()
    scores = evaluate(translator, PairFiles(path=options.data / "test.tsv"), ["wer", "per"], beam=options.beam).scores
    seconds = time.perf_counter() - began
    run = Run.open(options.run)
    result = {
        "wer": round(scores["wer"].value, 2),
        "per": round(scores["per"].value, 2),
        "words": len(words),
        "beam": options.beam,
        "parameters": sum(p.numel() for p in translator.model.parameters()),
        "decoding_words_per_second": round(len(words) / seconds, 1),
    }
    record.write(run, result | record.how_it_was_trained(run))


if __name__ == "__main__":
    main()
