"""A gradient computed in parts, side by side, is the one computed whole."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from qkv.config.schema import TrainingConfig
from qkv.nn.architectures import ARCHITECTURES
from qkv.text.batches import Batch, pad
from qkv.training import gradient as gradient_module
from qkv.training import loss as loss_module
from qkv.training.gradient import Gradient
from qkv.training.optimization import Optimization
from qkv.training.trainer import resume, train

CPU = torch.device("cpu")
PAD = 0


@pytest.fixture
def two_threads(one_thread, monkeypatch):
    """And parts may be as small as these tests' batches."""
    monkeypatch.setattr(gradient_module, "_LEAST_TOKENS", 1)
    torch.set_num_threads(2)


def batch(seed: int, rows: int = 7, padded: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def sequences(most: int) -> list[list[int]]:
        lengths = torch.randint(2, most, (rows,), generator=generator).tolist() if padded else [most] * rows
        return [torch.randint(3, 12, (length,), generator=generator).tolist() for length in lengths]

    targets = sequences(9)
    source, source_mask = pad(sequences(6), PAD)
    output, mask = pad(targets, PAD)
    shifted, _ = pad([[1, *target[:-1]] for target in targets], PAD)
    return Batch(source, source_mask, shifted, output, mask, sum(map(len, targets)))


def gradient_of(architecture: str, dtype: torch.dtype = torch.float64, **options: Any) -> Gradient:
    torch.manual_seed(5)
    kind = ARCHITECTURES[architecture]
    chosen = kind.implied | {"vocab_size": 12, "d_model": 8, "dropout": 0.0} | options
    model = kind.build(kind.config(**chosen)).to(dtype).train()
    settings = TrainingConfig(label_smoothing=0.1)
    return Gradient(model, Optimization(model, settings, CPU), settings, CPU)


def computed(gradient: Gradient, batches: list[Batch], threads: int) -> tuple[list[torch.Tensor | None], float, float]:
    torch.set_num_threads(threads)
    gradient._model.zero_grad()
    loss = gradient.add(batches)
    assert torch.get_num_threads() == threads
    gradient.close()
    return [p.grad for p in gradient._model.parameters()], loss.smoothed.item(), loss.nll.item()


MODELS = [
    ("transformer", {"num_heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 2, "attention_dropout": 0.0}),
    ("convolutional", {"encoder_layers": 2, "decoder_layers": 2}),
    ("gru-attention", {"encoder_layers": 2, "decoder_layers": 1}),
    ("lstm", {"encoder_layers": 1, "decoder_layers": 1}),
]


@pytest.mark.parametrize(("architecture", "options"), MODELS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("padded", [True, False])
def test_parts_equal_the_whole(two_threads, architecture, options, threads, padded):
    gradient, batches = gradient_of(architecture, **options), [batch(1, padded=padded), batch(2, rows=4)]
    assert gradient._model.divisible
    whole, smoothed, nll = computed(gradient, batches, threads=1)
    parts, smoothed_of_parts, nll_of_parts = computed(gradient, batches, threads)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert (smoothed_of_parts, nll_of_parts) == pytest.approx((smoothed, nll), rel=1e-6)


def test_parts_are_computed_at_once_each_by_one_thread(two_threads, monkeypatch):
    both = threading.Barrier(2, timeout=20)  # lets nobody pass who is alone
    seen, threads_of_newcomers, compute = [], [], loss_module.batch_loss

    def watched(*given: Any) -> Any:
        both.wait()
        seen.append((threading.get_ident(), torch.get_num_threads(), given[1].num_target_tokens))
        newcomer = threading.Thread(target=lambda: threads_of_newcomers.append(torch.get_num_threads()))
        newcomer.start()
        newcomer.join()
        return compute(*given)

    monkeypatch.setattr(loss_module, "batch_loss", watched)
    whole = batch(1)
    computed(gradient_of("transformer", num_heads=2, d_ff=16, encoder_layers=1, decoder_layers=1), [whole], threads=2)
    assert len({thread for thread, _, _ in seen}) == 2
    assert {threads for _, threads, _ in seen} == {1}
    assert threads_of_newcomers == [2, 2], "whoever first touches torch meanwhile is none of them"
    assert sum(tokens for _, _, tokens in seen) == whole.num_target_tokens


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    """Of one process, by files: what DDP and FSDP need to be put around a module."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("architecture", ["transformer", "lstm-attention"])
def test_what_training_calls_may_be_wrapped(two_threads, process_group, architecture):
    """DDP or fully_shard around `forward`: the same loss and gradient, and the batch is not shared out to threads."""
    options = {"num_heads": 2, "d_ff": 16} if architecture == "transformer" else {}
    plain, wrapped, sharded = (
        gradient_of(architecture, encoder_layers=1, decoder_layers=1, **options) for _ in range(3)
    )
    expected = computed(plain, [batch(1), batch(2)], threads=1)
    wrapped.learner = DistributedDataParallel(wrapped.learner)
    fully_shard(sharded.learner, mesh=init_device_mesh("cpu", (1,)))
    for gradient in (wrapped, sharded):
        gradients, *losses = computed(gradient, [batch(1), batch(2)], threads=2)
        assert losses == pytest.approx(expected[1:], rel=1e-9)
        for found, one in zip(gradients, expected[0], strict=True):
            whole = found.full_tensor() if isinstance(found, DTensor) else found
            torch.testing.assert_close(whole, one, atol=1e-12, rtol=0)
    assert any(isinstance(parameter, DTensor) for parameter in sharded.learner.parameters())


def test_chance_does_not_depend_on_who_comes_first(two_threads):
    options = {"num_heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.3}
    gradient = gradient_of("transformer", torch.float32, **options)

    def once(seed: int, last_first: bool) -> tuple[list[torch.Tensor | None], torch.Tensor]:
        turn = threading.Event()
        compute = loss_module.batch_loss

        def in_turn(model: Any, part: Batch, smoothing: float) -> Any:
            is_first = torch.equal(part.source[0], whole.source[0, : part.source.shape[1]])
            if is_first == last_first:
                assert turn.wait(timeout=20)
            loss = compute(model, part, smoothing)
            turn.set()
            return loss

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_module, "batch_loss", in_turn)
            torch.manual_seed(seed)
            gradients, *_ = computed(gradient, [whole], threads=2)
        return gradients, torch.get_rng_state()

    whole = replace(batch(1, padded=False), source=torch.arange(3, 10)[:, None].expand(7, 4).contiguous())
    (first, state), (again, state_again), (other, _) = once(1, False), once(1, True), once(2, False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(state, state_again)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("transformer", {"num_heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1, "norm": "batch"}),
        ("lstm", {"encoder_layers": 2, "decoder_layers": 1, "dropout": 0.1}),
    ],
)
def test_rows_that_depend_on_others_or_on_chance_in_torch_stay_together(
    two_threads, monkeypatch, architecture, options
):
    gradient, calls = gradient_of(architecture, torch.float32, **options), []
    compute = loss_module.batch_loss
    monkeypatch.setattr(loss_module, "batch_loss", lambda *given: calls.append(given[1]) or compute(*given))
    whole = batch(1)
    computed(gradient, [whole], threads=2)
    assert calls == [whole]


def test_small_batches_stay_together(one_thread):
    gradient = gradient_of("convolutional", encoder_layers=1, decoder_layers=1)
    torch.set_num_threads(2)
    assert gradient._number_of_parts(batch(1)) == 1
    large = batch(1, rows=100, padded=False)
    assert gradient._number_of_parts(large) == 2
    torch.set_num_threads(1)
    assert gradient._number_of_parts(large) == 1


def test_a_fault_in_a_part_surfaces_and_the_threads_are_as_before(two_threads, monkeypatch):
    def faulty(model: Any, part: Batch, smoothing: float) -> Any:
        raise KeyError("in a part")

    monkeypatch.setattr(loss_module, "batch_loss", faulty)
    gradient = gradient_of("convolutional", encoder_layers=1, decoder_layers=1)
    with pytest.raises(KeyError, match="in a part"):
        gradient.add([batch(1)])
    assert torch.get_num_threads() == 2
    gradient.close()


def test_a_run_in_two_threads_is_resumed_bit_for_bit(two_threads, recipe, outcome, monkeypatch):
    def settings(name: str) -> dict[str, Any]:
        return recipe(name, checkpoints={"every": 5}, training={"steps": 14, "accumulate": 2}) | {"threads": 2}

    whole = outcome(train(settings("whole"), progress=False))
    add, calls = Gradient.add, itertools.count(1)

    def interrupted(self: Gradient, batches: list[Batch]) -> Any:
        if next(calls) == 8:
            raise KeyboardInterrupt
        return add(self, batches)

    monkeypatch.setattr(Gradient, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(settings("interrupted"), progress=False)
    monkeypatch.setattr(Gradient, "add", add)
    assert outcome(resume(settings("interrupted")["run"], progress=False)) == whole
    alone = outcome(train(settings("alone") | {"threads": 1}, progress=False))
    assert alone["metrics"] != whole["metrics"]  # other chance: it was in parts
