"""How the time of a search grows with the length of its output: seconds for 64 to 1,024 forced tokens.

    python benchmarks/decoding_length.py [--threads 1] [--lengths 64,128,256,512,1024]

A small Transformer of random weights, which is never allowed to end, decodes four sources of 16 tokens. Beside each
time stands the exponent between it and the one before: 1 is linear growth. CPU time is measured, which neighbours on
the machine disturb least.
"""

import argparse
import math
import time

import torch

from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.devices import keep_freed_memory
from qkv.nn import Transformer, TransformerConfig

PAD, BOS, EOS = 0, 1, 2
VOCABULARY = 8_000


def endless_model() -> Transformer:
    """Of random weights; the end of sentence is less probable than all else."""
    torch.manual_seed(1)
    model = Transformer(TransformerConfig.small(VOCABULARY, tie="none")).eval().requires_grad_(False)
    model.output = torch.nn.Linear(model.config.d_model, VOCABULARY).requires_grad_(False)
    model.output.bias[EOS] = -1e4
    return model


def seconds(model: Transformer, length: int, beam: int) -> float:
    """CPU time to decode so many tokens."""
    source = torch.randint(3, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(1))
    options = SearchOptions(beam=beam, max_length_ratio=0.0, max_length_extra=length)
    began = time.process_time()
    found = search(model, source, None, bos=BOS, eos=EOS, pad=PAD, options=options)
    spent = time.process_time() - began
    assert all(len(best.tokens) == length for [best] in found)
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", default="64,128,256,512,1024")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    model = endless_model()
    lengths = [int(length) for length in options.lengths.split(",")]
    for beam in (1, 5):
        search_time = {n: min(seconds(model, n, beam) for _ in range(options.rounds)) for n in lengths}
        for before, length in zip([None, *lengths], lengths, strict=False):
            line = f"beam {beam}  {length:5d} tokens  {search_time[length]:7.2f} s"
            if before is not None:
                growth = math.log(search_time[length] / search_time[before]) / math.log(length / before)
                line += f"  exponent {growth:.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
