"""Score a Multi30k English → German run twice, as it is compared: sacreBLEU 13a on raw text, and lower-cased and
tokenised against the official `tok/` files, as papers do. Writes benchmarks/results/RUN.json.

    python benchmarks/multi30k.py runs/multi30k-en-de [--data data/multi30k] [--beam 5]
"""

import time
from pathlib import Path

import record
from sacremoses import MosesPunctNormalizer, MosesTokenizer

import qkv
from qkv.metrics.translation import BLEU
from qkv.run.directory import Run
from qkv.text.corpus import read_lines


def lower_cased_and_tokenised(lines: list[str], language: str) -> list[str]:
    """What the data set's own scripts did to its `tok/` files: lower case, normalise punctuation, tokenise."""
    normalise = MosesPunctNormalizer(lang=language).normalize
    tokenise = MosesTokenizer(lang=language).tokenize
    return [tokenise(normalise(line.lower()), return_str=True, escape=True) for line in lines]


def check_tokenisation(raw: list[str], official: list[str]) -> None:
    """Say how far our way of tokenising reproduces the official files, on the references themselves."""
    same = sum(a == b for a, b in zip(lower_cased_and_tokenised(raw, "de"), official, strict=True))
    print(f"tokenisation equals the official files on {same} of {len(raw)} reference lines")


def main() -> None:
    """Translate test2016 with a run, and print and write the scores."""
    options = record.options(__doc__, data="data/multi30k")
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
    tok = BLEU(tokenised, [[line] for line in tok_reference], tokenize="none")
    raw = None if trained_on_tok else BLEU(outputs, [[line] for line in raw_reference])
    result = {
        "bleu": None if raw is None else round(raw.value, 2),
        "signature": None if raw is None else raw.signature,
        "bleu_tok_lc": round(tok.value, 2),
        "signature_tok_lc": tok.signature,
        "beam": options.beam,
        "parameters": sum(p.numel() for p in translator.model.parameters()),
        "decoding_sentences_per_second": round(len(outputs) / seconds, 1),
    }
    record.write(run, result | record.how_it_was_trained(run))


if __name__ == "__main__":
    main()
