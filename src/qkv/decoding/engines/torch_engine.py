"""A model in another precision than it was trained in, or with a shortlist, as what searches in its place."""

import copy
from collections.abc import Callable, Sequence

import torch

from qkv.decoding.cpu.packing import Packing
from qkv.decoding.cpu.quantization import quantize
from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.decoding.sentences import search_all
from qkv.decoding.shortlist import Shortlist, learn_shortlist
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.directory import Run
from qkv.text.batches import pad
from qkv.text.encoded import EncodedCorpus
from qkv.text.tokenizer import Tokenizers


class TorchEngine:
    """See `qkv.decoding.engines.contract.Engine`.

    Args:
        model: in evaluation mode, in the precision wanted.
        tokenizers: give the special ids.
        device: where the model is.
        shortlist: limits the target tokens that a search looks at, if given; scores are of the whole vocabulary.
    """

    def __init__(
        self, model: Seq2Seq, tokenizers: Tokenizers, device: torch.device, shortlist: Shortlist | None = None
    ):
        self.shortlist = shortlist
        self._packing = Packing(model)
        self._tokenizers, self._device = tokenizers, device

    @property
    def model(self) -> Seq2Seq:
        """What searches: the model, laid out for decoding."""
        return self._packing.packed()

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions,
        *,
        batch_tokens: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """See `qkv.decoding.sentences.search_all`."""
        return search_all(
            self.model,
            sources,
            self._tokenizers,
            options,
            batch_tokens=batch_tokens,
            device=self._device,
            on_progress=on_progress,
            shortlist=self.shortlist,
        )

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of each token of each target; sources and targets end with eos."""
        tokenizer = self._tokenizers.target
        source, source_mask = self._pad(sources, self._tokenizers.source.pad)
        target_input, _ = self._pad([[tokenizer.bos, *target[:-1]] for target in targets], tokenizer.pad)
        target_output, target_mask = self._pad(targets, tokenizer.pad)
        scores = score_targets(self.model, source, source_mask, target_input, target_output, target_mask)
        return [row[: len(target)] for row, target in zip(scores.tolist(), targets, strict=True)]

    def _pad(self, encoded: Sequence[Sequence[int]], value: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        padded, mask = pad([list(ids) for ids in encoded], value)
        return padded.to(self._device), None if mask is None else mask.to(self._device)


def lower_precision(model: Seq2Seq, precision: str, device: torch.device) -> Seq2Seq:
    """A model for decoding in int8 (on a CPU), bf16 or fp16 (on CUDA): a copy, unless it is to stay float32.

    Raises:
        UserError: if there is no such precision, or not on this device.
    """
    if precision == "float32":
        return model
    if precision == "int8":
        if device.type != "cpu":
            raise UserError("precision int8 is for a CPU: take bf16 or fp16 on cuda")
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            raise UserError("precision int8 needs a CPU with AVX2: take float32")
        return quantize(model)
    if precision == "bf16":
        return copy.deepcopy(model).to(torch.bfloat16)
    if precision == "fp16":
        if device.type == "cpu":
            raise UserError("precision fp16 is for cuda: take float32 or int8 on a CPU")
        return copy.deepcopy(model).to(torch.float16)
    raise UserError(f"unknown precision {precision!r}: use float32, bf16, fp16 or int8")


def shortlist_of(run: Run, tokenizers: Tokenizers, count: int) -> Shortlist:
    """A run's shortlist of so many target tokens for each source token: learnt when it is first asked for, and kept.

    Raises:
        UserError: if the run's encoded training pairs are gone, or the shortlist is damaged.
    """
    path = run.path / f"shortlist-{count}.safetensors"
    if path.is_file():
        return Shortlist.load(path)
    source, target = tokenizers.source, tokenizers.target
    special = [target.bos, target.eos, target.pad, target.unk]
    corpus = EncodedCorpus.open(run.encoded_path("train"))
    shortlist = learn_shortlist(corpus, source.vocab_size, target.vocab_size, count, special)
    shortlist.save(path)
    return shortlist
