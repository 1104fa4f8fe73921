"""How good the model is on pairs it does not learn from."""

import math
from dataclasses import dataclass, field
from itertools import islice

import torch

from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.devices import autocast
from qkv.metrics import METRICS, compute_for_pairs
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.preparation import Prepared, pair_files, validation_corpus
from qkv.text.batches import BatchPlan, collate
from qkv.text.corpus import Pair, read_pairs
from qkv.training.loss import batch_loss
from qkv.translator import Translator


@dataclass
class Validation:
    """What one look at the validation pairs gave.

    Attributes:
        loss: negative log-likelihood per target token, in nats.
        metric: value of the chosen metric (the loss itself if that was chosen).
        samples: (source, reference, output).
        perplexity: exp(loss).
    """

    loss: float
    metric: float
    samples: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def perplexity(self) -> float:
        """exp(loss); huge, but finite, at the start of a training that goes wrong."""
        return math.exp(min(self.loss, 700.0))


class Validator:
    """Measures loss and metric; it draws no random numbers, so training goes on as if it had not been there.

    Args:
        prepared: run, configuration and tokenizers.
        device: where the models to be measured are.
    """

    def __init__(self, prepared: Prepared, device: torch.device):
        self.settings = prepared.config.validation
        self._config, self._tokenizers, self._device = prepared.config, prepared.tokenizers, device
        self._corpus = validation_corpus(prepared)
        self._pairs: list[Pair] = []
        if self._corpus is not None:
            pairs = read_pairs(pair_files(prepared.config, "validation"))
            self._pairs = list(islice(pairs, self.settings.max_examples))

    @property
    def possible(self) -> bool:
        """Whether the recipe has validation pairs."""
        return self._corpus is not None

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the metric is a better one."""
        return self.settings.metric != "loss" and METRICS[self.settings.metric].higher_is_better

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` of the metric is better than the best so far (None: there is none yet)."""
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best

    @torch.no_grad()
    def __call__(self, model: Seq2Seq) -> Validation:
        """Measure; the model is left in the mode it was found in."""
        was_training = model.training
        model.eval()
        try:
            loss = self._loss(model)
            if self.settings.metric == "loss":
                outputs = self._outputs(model, self._pairs[: self.settings.samples])
                metric = loss
            else:
                outputs = self._outputs(model, self._pairs)
                scores = compute_for_pairs([self.settings.metric], self._pairs, outputs)
                metric = scores[self.settings.metric].value
        finally:
            model.train(was_training)
        samples = [(*pair, outputs[pair.source]) for pair in self._pairs[: self.settings.samples]]
        return Validation(loss, metric, samples)

    def _loss(self, model: Seq2Seq) -> float:
        assert self._corpus is not None
        lengths = self._corpus.source_lengths, self._corpus.target_lengths
        total, tokens = 0.0, 0
        for indices in BatchPlan(*lengths, self._config.training.batch_tokens, seed=0, epoch=0):
            batch = collate(self._corpus, indices, self._tokenizers)
            with autocast(self._device, self._config.training.precision):
                total += batch_loss(model, batch.to(self._device)).nll.item()
            tokens += batch.num_target_tokens
        return total / tokens

    def _outputs(self, model: Seq2Seq, pairs: list[Pair]) -> dict[str, str]:
        """The best output for each different source."""
        sources = list(dict.fromkeys(pair.source for pair in pairs))
        decoding, precision = self._config.decoding, self._config.training.precision
        translator = Translator(
            model,
            self._tokenizers,
            options=decoding.search_options(beam=self.settings.beam),
            batch_tokens=decoding.batch_tokens,
            engine=TorchEngine(model, self._tokenizers, autocast=precision),
        )
        return dict(zip(sources, translator.translate(sources), strict=True))
