"""Hugging Face transformers: MarianMTModel.generate on batches sorted by length."""

from typing import Any

import sentencepiece
import torch
from torch import Tensor
from transformers import MarianMTModel
from worker import Command, decoding, serve

SENTENCES = [128, 32, 64]  # the likeliest last
LONGEST = 128


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=options["tokenizer"])
    threads, pad, end = options["threads"], pieces.pad_id(), pieces.eos_id()
    model = MarianMTModel.from_pretrained(options["model"]).eval()
    silent = {pad, end, pieces.bos_id()}

    def generate(encoded: list[list[int]], beam: int) -> list[str]:
        longest = max(map(len, encoded))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in encoded])
        mask: Tensor = (ids != pad).long()
        found = model.generate(
            input_ids=ids, attention_mask=mask, num_beams=beam, do_sample=False, length_penalty=1.0, max_length=LONGEST
        )
        return pieces.decode([[i for i in row if i not in silent] for row in found.tolist()])

    def translate(sources: list[str], beam: int, size: int) -> list[str]:
        torch.set_num_threads(threads)
        encoded = [[*ids, end] for ids in pieces.encode(sources)]
        order = sorted(range(len(sources)), key=lambda index: -len(encoded[index]))
        outputs: dict[int, str] = {}
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            outputs.update(zip(batch, generate([encoded[index] for index in batch], beam), strict=True))
        return [outputs[index] for index in range(len(sources))]

    def one(source: str, beam: int, threads: int) -> str:
        torch.set_num_threads(threads)
        return generate([[*pieces.encode(source), end]], beam)[0]

    return decoding(translate, SENTENCES, one, sorted({1, threads}))


if __name__ == "__main__":
    serve(build)
