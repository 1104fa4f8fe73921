"""Score a Multi30k English → German run twice, as it is compared: sacreBLEU 13a on raw text, and lower-cased and
tokenised against the official `tok/` files, as papers do. Writes benchmarks/results/RUN.json.

    python benchmarks/multi30k.py runs/multi30k-en-de [--data ../shared/data/multi30k] [--beam 5]
"""

import argparse
import json
import time
from pathlib import Path

from sacremoses import MosesPunctNormalizer, MosesTokenizer

import qkv
from qkv.metrics import corpus_bleu
from qkv.run import Run
from qkv.text.corpus import read_lines
from qkv.training.checkpoint import read_description

RESULTS = Path(__file__).parent / "results"


def lower_cased_and_tokenised(lines: list[str], language: str) -> list[str]:
    """What the data set's own scripts did to its `tok/` files: lower case, normalise punctuation, tokenise."""
    normalise = MosesPunctNormalizer(lang=language).normalize
    tokenise = MosesTokenizer(lang=language).tokenize
    return [tokenise(normalise(line.lower()), return_str=True, escape=True) for line in lines]


def main() -> None:
    """Translate test2016 with a run and print and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/multi30k"))
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--checkpoint", default=None)
    options = parser.parse_args()

    raw_reference = list(read_lines(options.data / "test2016.de"))
    tok_reference = list(read_lines(options.data / "tok" / "test2016.de"))
    check_tokenisation(raw_reference, tok_reference)
    run = Run.open(options.run)
    trained_on_tok = "tok" in Path(run.config.data.root).parts
    source = options.data / "tok" / "test2016.en" if trained_on_tok else options.data / "test2016.en"
    translator = qkv.load(options.run, checkpoint=options.checkpoint)
    began = time.perf_counter()
    outputs = translator.translate(list(read_lines(source)), beam=options.beam)
    seconds = time.perf_counter() - began

    tokenised = outputs if trained_on_tok else lower_cased_and_tokenised(outputs, "de")
    tok = corpus_bleu(tokenised, [[line] for line in tok_reference], tokenize="none")
    raw = None if trained_on_tok else corpus_bleu(outputs, [[line] for line in raw_reference])
    reports = [line for line in run.metrics() if line["event"] == "train"]
    training = read_description(run.checkpoints()[-1])["training"]
    result = {
        "bleu": None if raw is None else round(raw.value, 2),
        "signature": None if raw is None else raw.signature,
        "bleu_tok_lc": round(tok.value, 2),
        "signature_tok_lc": tok.signature,
        "minutes": round(training["seconds"] / 60, 1),
        "target_tokens_per_second": round(sorted(r["tokens_per_second"] for r in reports)[len(reports) // 2]),
        "target_tokens": training["target_tokens"],
        "steps": training["step"],
        "parameters": sum(p.numel() for p in translator.model.parameters()),
        "beam": options.beam,
        "decoding_sentences_per_second": round(len(outputs) / seconds, 1),
        "command": f"qkv train recipes/{Path(options.run).name}.yaml && python benchmarks/multi30k.py {options.run}",
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{Path(options.run).name}.json").write_text(json.dumps(result, indent=1) + "\n")


def check_tokenisation(raw: list[str], official: list[str]) -> None:
    """Say how far our way of tokenising reproduces the official files on the references themselves."""
    same = sum(a == b for a, b in zip(lower_cased_and_tokenised(raw, "de"), official, strict=True))
    print(f"tokenisation equals the official files on {same} of {len(raw)} reference lines")


if __name__ == "__main__":
    main()
