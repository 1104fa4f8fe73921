"""Unknown symbols, passed through: where an output has one, the source symbol that the model looked at takes its place.

After Luong et al. 2015, "Addressing the rare word problem in neural machine translation"; by attention, as Jean et al.
2015 do (section 3.3).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.decoding.reading import Reading
from qkv.decoding.sentences import length_sorted_batches
from qkv.nn.seq2seq import AttentionRecord, Seq2Seq
from qkv.text.batches import forced_batch
from qkv.text.tokenizer import Tokenizers


@torch.inference_mode()
def attends(model: Seq2Seq) -> bool:
    """Whether a model in eval mode looks back at its source while it writes."""
    record, one = AttentionRecord(), torch.zeros((1, 1), dtype=torch.int64, device=model.output.weight.device)
    model.decode(one, model.encode(one), record=record)
    return bool(record.cross)


def copied_symbols(
    model: Seq2Seq,
    tokenizers: Tokenizers,
    reading: Reading,
    source_of: Sequence[int],
    outputs: Sequence[Sequence[int]],
    batch_tokens: int,
) -> list[list[str] | None]:
    """For each output, and each unk in it, the source symbol that the model looked at most when it wrote that.

    All heads of all layers count alike. Where the source has unknown symbols, only these are looked for; else all
    tokens but its end of sentence are.

    Args:
        model: in eval mode, one that `attends`.
        tokenizers: of both sides.
        reading: the sources.
        source_of: for each output the index of its source.
        outputs: ids.
        batch_tokens: see `Translator`.

    Returns:
        None for an output that has no unk.
    """
    wanted = [number for number, tokens in enumerate(outputs) if tokenizers.target.unk in tokens]
    copied: list[list[str] | None] = [None] * len(outputs)
    lengths = [max(len(reading.ids[source_of[number]]), len(outputs[number])) for number in wanted]
    for batch in length_sorted_batches(lengths, batch_tokens):
        numbers = [wanted[place] for place in batch]
        sources, targets = [reading.ids[source_of[number]] for number in numbers], [outputs[n] for n in numbers]
        weights = _weights(model, tokenizers, sources, targets)
        for number, row, source, target in zip(numbers, weights, sources, targets, strict=True):
            symbols = reading.symbols(source_of[number])
            copied[number] = [symbols[place] for place in _places(row, source, target, tokenizers)]
    return copied


@torch.inference_mode()
def _weights(
    model: Seq2Seq, tokenizers: Tokenizers, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> Float[Tensor, "batch target source"]:
    record = AttentionRecord()
    batch = forced_batch(sources, targets, tokenizers).to(model.output.weight.device)
    model.decode(batch.target_input, model.encode(batch.source, batch.source_mask), record=record)
    return torch.stack([layer.mean(dim=1) for layer in record.cross]).mean(dim=0)


def _places(
    weights: Float[Tensor, "target source"], source: Sequence[int], target: Sequence[int], tokenizers: Tokenizers
) -> list[int]:
    unknown = [place for place, token in enumerate(source) if token == tokenizers.source.unk]
    places = unknown or list(range(max(1, len(source) - 1)))
    steps = [step for step, token in enumerate(target) if token == tokenizers.target.unk]
    return [places[int(weights[step, places].argmax())] for step in steps]
