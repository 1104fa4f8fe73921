"""qkv's Translator, from text to text."""

from typing import Any

import torch
from worker import Command, decoding, serve

import qkv
from qkv.devices import keep_freed_memory

BATCH_TOKENS = [2048, 32768, 4096, 8192, 16384]  # source tokens × beam; the likeliest last


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    keep_freed_memory()
    threads = options["threads"]
    chosen = {key: options[key] for key in ("engine", "precision", "shortlist")}
    translator = qkv.load(options["run"], device="cpu", **chosen)

    def translate(sources: list[str], beam: int, size: int) -> list[str]:
        torch.set_num_threads(threads)
        translator.batch_tokens = size
        return translator.translate(sources, beam=beam)

    def one(source: str, beam: int, threads: int) -> str:
        torch.set_num_threads(threads)
        return translator.translate(source, beam=beam)

    return decoding(translate, BATCH_TOKENS, one, sorted({1, threads}))


if __name__ == "__main__":
    serve(build)
