"""Hugging Face's part of `race.py`: MarianMTModel trained for so many minutes, then its outputs.

The learning rate follows the schedule that qkv fits to a budget: up over a tenth of the time at most, down with the
inverse square root of the step, and to zero over the last three tenths.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import train_hf
from pairs import PAD, Pairs, sorted_pools
from torch import nn
from torch.nn import functional as F
from transformers import MarianMTModel

WARM_UP, COOL_DOWN = 0.1, 0.3  # shares of the time


def main() -> None:
    """Read the options' file, train, translate, and write what came of it."""
    options = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    began = time.perf_counter()
    model, tokens, steps = _train(options, began)
    seconds = time.perf_counter() - began
    outputs = _translate(model.eval(), options)
    found = {"seconds": seconds, "target_tokens": tokens, "steps": steps, "outputs": outputs}
    Path(options["out"]).write_text(json.dumps(found), encoding="utf-8")


def _train(options: dict[str, Any], began: float) -> tuple[MarianMTModel, int, int]:
    pairs = Pairs(options["pairs"])
    batches = sorted_pools(pairs, options["batch_tokens"], options["seed"])
    model = MarianMTModel(train_hf.configuration(options)).train()
    adam = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True)
    tokens = steps = 0
    while (share := (time.perf_counter() - began) / (60 * options["minutes"])) < 1.0:
        steps += 1
        risen = min(1.0, max(steps / options["warmup_steps"], share / WARM_UP))
        fallen = min(1.0, (options["warmup_steps"] / steps) ** 0.5) * min(1.0, (1.0 - share) / COOL_DOWN)
        adam.param_groups[0]["lr"] = options["learning_rate"] * risen * fallen
        indices = next(batches)
        source, target = pairs.tensor("source", indices), pairs.tensor("target", indices)
        read = pairs.tensor("target", indices, begin=True)
        logits = model(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=read).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=options["label_smoothing"]
        )
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
        adam.step()
        tokens += int((target != PAD).sum())
        if steps % 50 == 0:
            print(f"step {steps}, {share:.0%}, {tokens:,} target tokens, loss {loss.item():.3f}", flush=True)
    return model, tokens, steps


@torch.inference_mode()
def _translate(model: MarianMTModel, options: dict[str, Any]) -> list[str]:
    """Beam 5 over the test set, in order."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=options["tokenizer"])
    sources = Path(options["sources"]).read_text("utf-8").splitlines()
    silent = {pieces.pad_id(), pieces.bos_id(), pieces.eos_id()}
    encoded = [[*ids, pieces.eos_id()] for ids in pieces.encode(sources)]
    order = sorted(range(len(sources)), key=lambda index: -len(encoded[index]))
    outputs: dict[int, str] = {}
    model.config.use_cache = model.generation_config.use_cache = True
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        longest = max(len(encoded[index]) for index in batch)
        ids = torch.tensor([encoded[index] + [PAD] * (longest - len(encoded[index])) for index in batch])
        found = model.generate(
            input_ids=ids, attention_mask=(ids != PAD).long(), num_beams=5, do_sample=False, max_length=128
        )
        for index, row in zip(batch, found.tolist(), strict=True):
            outputs[index] = pieces.decode([token for token in row if token not in silent])
    return [outputs[index] for index in range(len(sources))]


if __name__ == "__main__":
    main()
