"""Does `engine: auto`, with all that our door does around it, keep up with CTranslate2 driven directly?

    python benchmarks/auto_engine.py RUN --sources test.en

The two take turns on one loaded model, from text to text, two workers of one thread each. Directly driven CTranslate2
has no limit of length for each source, so sources are wanted whose outputs end by themselves: others are left out.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import qkv
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.devices import keep_freed_memory


def main() -> None:
    """Measure in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sources", type=Path, required=True, help="a text file, one source a line")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    ours = qkv.load(options.run, device="cpu", engine="auto")
    sources = [line for line in options.sources.read_text("utf-8").split("\n") if line.strip()]
    ends = [found[0].finished for found in ours.search(ours.encode(sources, "source"))]
    sources = [source for source, ended in zip(sources, ends, strict=True) if ended][:500]
    theirs = _directly(options.run)
    found = {}
    for beam in (1, 5):
        for what, parts in (("many", [sources]), ("one sentence", [[source] for source in sources[:60]])):
            seconds: dict[str, list[float]] = {"auto": [], "directly": []}
            for _ in range(options.rounds):
                for name, translate in (("auto", ours.translate), ("directly", theirs)):
                    began = time.perf_counter()
                    for part in parts:
                        translate(part, beam=beam)
                    seconds[name].append(time.perf_counter() - began)
            auto, directly = (sum(map(len, parts)) / statistics.median(each) for each in seconds.values())
            found[f"{what}, beam {beam}"] = {"auto": auto, "directly": directly, "ratio": auto / directly}
            print(f"{what:14} beam {beam}: auto {auto:8.1f}/s, directly {directly:8.1f}/s, × {auto / directly:.2f}")
    print(json.dumps(found))


def _directly(run: str) -> Callable[..., list[str]]:
    loaded = qkv.load(run, device="cpu", engine="ctranslate2")
    engine, source, target = loaded.engine, loaded.tokenizers.source, loaded.tokenizers.target
    assert isinstance(engine, CTranslate2Engine)
    translator = engine._load()

    def translate(texts: list[str], *, beam: int) -> list[str]:
        pieces = engine._pieces([[*ids, source.eos] for ids in source.encode(texts)])
        found = translator.translate_batch(pieces, beam_size=beam, max_batch_size=32, max_input_length=0)
        return target.decode([[engine._id_of[name] for name in each.hypotheses[0]] for each in found])

    return translate


if __name__ == "__main__":
    main()
