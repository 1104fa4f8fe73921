"""How good the model is on pairs it does not learn from."""

import math
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.metrics import METRICS, compute_for_pairs, settle
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import TrainingState, read_tensors, using_weights
from qkv.run.directory import Run
from qkv.run.preparation import Prepared, pair_files, validation_corpus
from qkv.text.batches import BatchPlan, collate
from qkv.text.corpus import Pair, read_pairs
from qkv.training.loss import Learner
from qkv.translator import Translator


@dataclass
class Validation:
    """What one look at the validation pairs gave.

    Attributes:
        loss: negative log-likelihood per target token, in nats.
        metric: value of the chosen metric (the loss itself if that was chosen).
        samples: (source, reference, output).
    """

    loss: float
    metric: float
    samples: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def perplexity(self) -> float:
        """exp(loss); huge, but finite, at the start of a training that goes wrong."""
        return math.exp(min(self.loss, 700.0))


class Validator:
    """Measures loss and metric, which is `possible` if the recipe has validation pairs.

    It draws no random numbers, so training goes on as if it had not been there. `remarks` are what there is to tell of
    the metric on these pairs.
    """

    def __init__(self, prepared: Prepared, device: torch.device):
        self.settings = prepared.config.validation
        self._config, self._tokenizers, self._device = prepared.config, prepared.tokenizers, device
        self._corpus = validation_corpus(prepared)
        self.possible = self._corpus is not None
        self._pairs: list[Pair] = []
        if self._corpus is not None:
            pairs = read_pairs(pair_files(prepared.config, "validation"))
            self._pairs = list(islice(pairs, self.settings.max_examples))
        metrics = [] if self.settings.metric == "loss" else [self.settings.metric]
        tokenize = prepared.config.evaluation.bleu_tokenize
        self._metric_settings, self.remarks = settle(metrics, self._pairs, tokenize)

    def is_better(self, found: Validation, best: float | None, best_loss: float | None) -> bool:
        """Whether the metric is better than the best so far (None: there is none yet), or as good with a lower loss."""
        if best is None or found.metric == best:
            return best is None or best_loss is None or found.loss < best_loss
        higher_is_better = self.settings.metric != "loss" and METRICS[self.settings.metric].higher_is_better
        return found.metric > best if higher_is_better else found.metric < best

    @property
    def judged_by(self) -> dict[str, Any]:
        """The metric, and what else its value depends on beside the model: what was judged alike can be compared."""
        if self.settings.metric == "loss":
            return {"metric": "loss"}
        return {
            **self.settings.model_dump(include={"metric", "beam", "max_examples"}),
            **self._config.decoding.search_options(beam=self.settings.beam).model_dump(mode="json"),
            **self._metric_settings.get(self.settings.metric, {}),
        }

    @torch.no_grad()
    def __call__(self, model: Seq2Seq) -> Validation:
        """Measure; the model is left in the mode it was found in."""
        name, shown = self.settings.metric, self._pairs[: self.settings.samples]
        was_training = model.training
        model.eval()
        try:
            loss = metric = self._loss(model)
            outputs = self._outputs(model, shown if name == "loss" else self._pairs)
        finally:
            model.train(was_training)
        if name != "loss":
            metric = compute_for_pairs([name], self._pairs, outputs, self._metric_settings)[name].value
        return Validation(loss, metric, [(*pair, outputs[pair.source]) for pair in shown])

    def _loss(self, model: Seq2Seq) -> float:
        assert self._corpus is not None
        lengths = self._corpus.source_lengths, self._corpus.target_lengths
        learner = Learner(model, precision=self._config.training.precision)
        total, tokens = 0.0, 0
        for indices in BatchPlan(*lengths, self._config.training.batch_tokens, seed=0, epoch=0):
            batch = collate(self._corpus, indices, self._tokenizers)
            total += learner(batch.to(self._device)).nll.item()
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


def judge_anew(validator: Validator, model: Seq2Seq, run: Run, state: TrainingState) -> str | None:
    """Measure the run's best so far by what judges from now on, if it was chosen by something else, or an older qkv.

    What came of it, for a person, is returned.
    """
    remark, best = None, run.checkpoint_path(state.best_step)
    if validator.possible and state.best is not None and state.judged_by != validator.judged_by:
        state.best = state.best_loss = None
        if best.is_dir():
            with using_weights(model, read_tensors(best / "model.safetensors")):
                found = validator(model)
            state.best, state.best_loss = found.metric, found.loss
            remark = f"the best checkpoint so far, {best.name}, has {validator.settings.metric} {found.metric:.2f}"
        if state.judged_by is not None:
            state.validations_since_best = 0
    state.judged_by = validator.judged_by
    return remark
