"""Search keeps its promises on random weights; in float64, so that two ways of computing one thing agree."""

import itertools
import math
import re

import pytest
import torch

from qkv.decoding.beam import Endings, beam_search
from qkv.decoding.greedy import greedy
from qkv.decoding.options import SearchOptions
from qkv.decoding.scoring import log_probabilities_of, log_softmax, score_targets
from qkv.decoding.search import search
from qkv.decoding.steps import Progress
from qkv.errors import UserError
from qkv.nn import Memory, Transformer, TransformerConfig, padding_mask
from qkv.text.batches import Batch

PAD, BOS, EOS, FIRST_WORD = 0, 1, 2, 3
SPECIAL = {"pad": PAD, "bos": BOS, "eos": EOS}
VOCAB = 23
LENGTHS = [6, 6, 5, 3, 3, 1]


def variants(*pairs):
    """Parametrize by (position, norm_position)."""
    return pytest.mark.parametrize(
        "variant",
        [pytest.param({"position": p, "norm_position": n}, id=f"{p}-{n}") for p, n in pairs],
    )


POSITIONS = ("sinusoidal", "learned", "rotary", "none")
every_variant = variants(*itertools.product(POSITIONS, ("post", "pre")))
every_position = variants(*zip(POSITIONS, ("post", "pre", "pre", "post"), strict=True))


def make_model(vocab=VOCAB, seed=1, **changes):
    """A small model of random weights, scaled to be sure of itself and to end sentences early and late."""
    torch.manual_seed(seed)
    shape = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 2}
    model = Transformer(TransformerConfig(vocab, **(shape | {"tie": "none", "max_length": 64} | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
        # The last token tells less and the source more, else the same token is repeated for ever.
        model.target_embedding.tokens.weight.mul_(0.3)
        for layer in model.decoder.layers:
            layer.cross_attention.output.weight.mul_(2)
        model.output.weight[EOS].mul_(3)
    return model.double().eval()


def make_sources(lengths=LENGTHS, vocab=VOCAB, seed=1):
    """(padded sources, mask)"""
    lengths = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(seed)
    mask = padding_mask(lengths)
    tokens = torch.randint(FIRST_WORD, vocab, mask.shape, generator=generator)
    return tokens.masked_fill(~mask, PAD), mask


def options(beam=4, **changes):
    return SearchOptions(**({"beam": beam, "max_length_ratio": 1.0, "max_length_extra": 4} | changes))


def assert_same(found, expected):
    """Equal n-best lists of hypotheses, up to rounding."""
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.finished for h in found] == [h.finished for h in expected]
    for name in ("score", "log_probability"):
        values = [getattr(h, name) for h in found]
        assert values == pytest.approx([getattr(h, name) for h in expected], rel=1e-9)


@torch.no_grad()
def naive_greedy(model, source, limit):
    """One sentence, everything recomputed for every token."""
    tokens, total = [], 0.0
    while len(tokens) < limit:
        log_probabilities = model(source[None], torch.tensor([[BOS, *tokens]]))[0, -1].log_softmax(-1)
        allowed = log_probabilities.clone()
        allowed[[PAD, BOS]] = -math.inf
        best = int(allowed.argmax())
        total += float(log_probabilities[best])
        tokens.append(best)
        if best == EOS:
            break
    return tokens, total


@torch.no_grad()
def every_output(model, source, limit):
    """{output: log-probability} of all outputs that end within the limit, by scoring each."""
    words = range(FIRST_WORD, model.output.out_features)
    totals = {}
    for length in range(limit):
        bodies = list(itertools.product(words, repeat=length))
        targets = torch.tensor([[BOS, *body, EOS] for body in bodies])
        logits = model(source.expand(len(bodies), -1), targets[:, :-1])
        scores = logits.log_softmax(-1).gather(2, targets[:, 1:, None]).sum(dim=(1, 2))
        totals.update(zip(bodies, scores.tolist(), strict=True))
    return totals


class TestGreedy:
    @every_variant
    def test_cached_equals_recomputed(self, variant):
        model, (source, mask) = make_model(**variant), make_sources()
        found = greedy(Progress(model, source, mask, **SPECIAL, options=options()))
        for hypothesis, row, length in zip(found, source, LENGTHS, strict=True):
            tokens, total = naive_greedy(model, row[:length], limit=length + 4)
            assert hypothesis.tokens == [token for token in tokens if token != EOS]
            assert hypothesis.finished == (tokens[-1] == EOS)
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-9)

    def test_some_outputs_end_and_some_are_cut_off(self):
        """Else the tests here would see one kind only."""
        model, (source, mask) = make_model(), make_sources()
        found = greedy(Progress(model, source, mask, **SPECIAL, options=options()))
        assert {hypothesis.finished for hypothesis in found} == {True, False}

    def test_score_is_divided_by_the_length_with_its_end(self):
        model, (source, mask) = make_model(), make_sources()
        for found in greedy(Progress(model, source, mask, **SPECIAL, options=options(length_penalty=0.5))):
            length = len(found.tokens) + found.finished
            assert found.score == pytest.approx(found.log_probability / length**0.5)


@pytest.mark.parametrize("beam", [1, 4])
@every_position
class TestRows:
    """What a row's output is must not depend on its company."""

    def test_batched_equals_alone(self, variant, beam):
        model, (source, mask) = make_model(**variant), make_sources()
        chosen = options(beam, n_best=beam)
        together = search(model, source, mask, **SPECIAL, options=chosen)
        for found, row, length in zip(together, source, LENGTHS, strict=True):
            [alone] = search(model, row[None, :length], None, **SPECIAL, options=chosen)
            assert_same(found, alone)

    def test_padded_equals_unpadded(self, variant, beam):
        model, (source, _) = make_model(**variant), make_sources([6, 6, 6])
        chosen = options(beam, n_best=beam)
        unpadded = search(model, source, None, **SPECIAL, options=chosen)
        wider = torch.nn.functional.pad(source, (0, 3), value=PAD)
        padded = search(model, wider, wider != PAD, **SPECIAL, options=chosen)
        for found, expected in zip(padded, unpadded, strict=True):
            assert_same(found, expected)

    @pytest.mark.parametrize("policy", [lambda live, carried: False, lambda live, carried: live < carried])
    def test_dropping_finished_rows_changes_nothing(self, variant, beam, policy, monkeypatch):
        model, (source, mask) = make_model(**variant), make_sources()
        chosen = options(beam, n_best=beam)
        expected = search(model, source, mask, **SPECIAL, options=chosen)
        for module in ("beam", "greedy"):
            monkeypatch.setattr(f"qkv.decoding.{module}.worth_compacting", policy)
        for found, wanted in zip(search(model, source, mask, **SPECIAL, options=chosen), expected, strict=True):
            assert_same(found, wanted)


class TestBeamSearch:
    @every_position
    def test_beam_of_one_equals_greedy(self, variant):
        model, (source, mask) = make_model(**variant), make_sources()
        found = beam_search(Progress(model, source, mask, **SPECIAL, options=options(1)))
        expected = greedy(Progress(model, source, mask, **SPECIAL, options=options(1)))
        assert_same([first for [first] in found], expected)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
    def test_a_beam_wide_enough_finds_the_best_of_all_outputs(self, seed, length_penalty):
        vocab, limit, n = 7, 4, 10
        model = make_model(vocab, seed)
        source, _ = make_sources([5], vocab)
        totals = every_output(model, source[0], limit)
        ranked = sorted(totals, key=lambda body: totals[body] / (len(body) + 1) ** length_penalty, reverse=True)
        chosen = SearchOptions(
            beam=vocab**limit,
            n_best=n,
            length_penalty=length_penalty,
            max_length_ratio=0.0,
            max_length_extra=limit,
        )
        [found] = beam_search(Progress(model, source, None, **SPECIAL, options=chosen))
        assert [tuple(h.tokens) for h in found] == ranked[:n]
        assert [h.log_probability for h in found] == pytest.approx([totals[b] for b in ranked[:n]], rel=1e-9)
        assert all(h.finished for h in found)

    @every_position
    def test_n_best_are_sorted_and_distinct(self, variant):
        model, (source, mask) = make_model(**variant), make_sources()
        for found in beam_search(Progress(model, source, mask, **SPECIAL, options=options(6, n_best=6))):
            assert len(found) == 6
            assert len({(tuple(h.tokens), h.finished) for h in found}) == 6
            ranks = [(h.finished, h.score) for h in found]
            assert ranks == sorted(ranks, reverse=True)

    def test_fewer_hypotheses_if_the_vocabulary_yields_no_more(self):
        """One word and two steps: nothing, the word, and the word twice, cut off."""
        model = make_model(FIRST_WORD + 1)
        source, _ = make_sources([3], FIRST_WORD + 1)
        chosen = SearchOptions(beam=9, n_best=9, max_length_ratio=0.0, max_length_extra=2)
        [found] = beam_search(Progress(model, source, None, **SPECIAL, options=chosen))
        outputs = {(tuple(h.tokens), h.finished) for h in found}
        assert outputs == {((), True), ((FIRST_WORD,), True), ((FIRST_WORD,) * 2, False)}
        assert len(found) == 3

    @pytest.mark.parametrize("n", [1, 2, 4])
    def test_stopping_early_loses_nothing(self, n, monkeypatch):
        """The rule that gives up hopeless sentences gives the same n best as going on without it."""
        model, (source, mask) = make_model(), make_sources([5] * 12)
        chosen = options(4, n_best=n)
        expected = beam_search(Progress(model, source, mask, **SPECIAL, options=chosen))
        monkeypatch.setattr(Endings, "is_hopeless", lambda self, most_probable: False)
        patient = beam_search(Progress(model, source, mask, **SPECIAL, options=chosen))
        for found, wanted in zip(expected, patient, strict=True):
            assert_same(found, wanted)

    def test_hopeless_sentences_are_given_up(self):
        """Plain log-probability only falls: once the best ending leads, nothing can overtake it."""
        endings = Endings(limit=50, options=options(4, length_penalty=0.0))
        endings.add(torch.tensor([5, 6]), -2.0)
        alive = torch.tensor([[5, 6, 7], [5, 5, 5]])
        endings.settle(alive, torch.tensor([-1.5, -3.0]), most_probable=-1.5)
        assert not endings.settled
        endings.settle(alive, torch.tensor([-2.5, -3.0]), most_probable=-2.5)
        assert endings.settled

    def test_what_ended_comes_before_what_was_cut_off(self):
        endings = Endings(limit=3, options=options(4, n_best=2))
        endings.add(torch.tensor([5]), -4.0)
        endings.settle(torch.tensor([[6, 6, 6], [6, 6, 7]]), torch.tensor([-0.1, -0.2]), most_probable=-0.1)
        assert [h.tokens for h in endings.n_best()] == [[5], [6, 6, 6]]


@pytest.mark.parametrize("beam", [1, 3])
class TestLimits:
    def test_each_row_has_its_own(self, beam):
        model, (source, mask) = make_model(), make_sources()
        with torch.no_grad():
            model.output.weight[EOS] = 0  # logit 0: hardly ever the best of these
        chosen = options(beam, max_length_ratio=1.5, max_length_extra=2)
        for [found], length in zip(search(model, source, mask, **SPECIAL, options=chosen), LENGTHS, strict=True):
            assert not found.finished
            assert len(found.tokens) == int(1.5 * length) + 2

    def test_at_least_one_token(self, beam):
        model, (source, mask) = make_model(), make_sources()
        chosen = options(beam, max_length_ratio=0.0, max_length_extra=0)
        for [found] in search(model, source, mask, **SPECIAL, options=chosen):
            assert len(found.tokens) + found.finished == 1

    def test_never_longer_than_the_learned_positions(self, beam):
        model, (source, mask) = make_model(position="learned", max_length=8), make_sources()
        with torch.no_grad():
            model.output.weight[EOS] = 0
        for [found] in search(model, source, mask, **SPECIAL, options=options(beam, max_length_extra=50)):
            assert len(found.tokens) == 8

    def test_neither_padding_nor_a_beginning_is_emitted(self, beam):
        model, (source, mask) = make_model(), make_sources()
        with torch.no_grad():
            # What the model would say most of all, given any choice.
            model.output.weight[[PAD, BOS]] = 50 * model.output.weight[[5, 6]]
        for [found] in search(model, source, mask, **SPECIAL, options=options(beam)):
            assert not {PAD, BOS, EOS} & set(found.tokens)

    def test_a_sentence_may_begin_with_the_token_that_ends_it(self, beam):
        model, (source, mask) = make_model(), make_sources()
        found = search(model, source, mask, bos=EOS, eos=EOS, pad=PAD, options=options(beam))
        assert any(hypothesis.finished for [hypothesis] in found)


@every_position
@pytest.mark.parametrize("beam", [1, 4])
def test_forced_scoring_equals_the_search(variant, beam):
    model, (source, mask) = make_model(**variant), make_sources()
    found = [best for best, *_ in search(model, source, mask, **SPECIAL, options=options(beam))]
    outputs = [torch.tensor([*h.tokens, EOS] if h.finished else h.tokens) for h in found]
    target_mask = padding_mask(torch.tensor([len(output) for output in outputs]))
    output = torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True, padding_value=PAD)
    target = torch.cat([torch.full((len(outputs), 1), BOS), output[:, :-1]], dim=1)
    scores = score_targets(model, Batch(source, mask, target, output, target_mask, int(target_mask.sum())))
    assert scores.sum(dim=1).tolist() == pytest.approx([h.log_probability for h in found], rel=1e-9)
    assert (scores[~target_mask] == 0).all()
    assert (scores[target_mask] < 0).all()


def test_forced_scoring_in_slices_equals_all_at_once(monkeypatch):
    model, (source, _) = make_model(), make_sources([5, 5, 5])
    target = torch.randint(FIRST_WORD, VOCAB, (3, 6), generator=torch.Generator().manual_seed(2))
    batch = Batch(source, None, target, target, None, target.numel())
    expected = score_targets(model, batch)
    monkeypatch.setattr("qkv.decoding.scoring._TOKENS_AT_ONCE", 4)
    torch.testing.assert_close(score_targets(model, batch), expected)


@pytest.mark.parametrize("beam", [1, 4])
def test_the_memory_is_encoded_and_projected_once(beam, monkeypatch):
    model, (source, mask) = make_model(), make_sources()
    calls = {"encode": 0, "project": 0}
    encode = model.encode

    def counting_encode(*args, **kwargs):
        calls["encode"] += 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(model, "encode", counting_encode)
    for layer in model.decoder.layers:
        project = layer.cross_attention.project_key_value

        def counting_project(*args, project=project, **kwargs):
            calls["project"] += 1
            return project(*args, **kwargs)

        monkeypatch.setattr(layer.cross_attention, "project_key_value", counting_project)
    search(model, source, mask, **SPECIAL, options=options(beam))
    assert calls == {"encode": 1, "project": len(model.decoder.layers)}


@pytest.mark.parametrize("beam", [1, 4])
def test_finished_sentences_leave(beam, monkeypatch):
    model, (source, mask) = make_model(), make_sources()
    sizes = []
    keep = Memory.keep

    def recording_keep(self, sentences):
        sizes.append(len(sentences))
        return keep(self, sentences)

    monkeypatch.setattr(Memory, "keep", recording_keep)
    search(model, source, mask, **SPECIAL, options=options(beam))
    assert sizes
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[0] < len(LENGTHS)


@every_position
def test_a_model_can_be_trained_after_it_was_searched_with(variant):
    """Whatever a model computes once and keeps must not be bound to the search that needed it first."""
    model, (source, mask) = make_model(**variant), make_sources()
    search(model, source, mask, **SPECIAL, options=options())
    model.train()(source, source, mask).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("beam", [1, 4])
def test_lower_precision(dtype, tolerance, beam):
    """What is found is about as probable as the model says in full precision."""
    model, (source, mask) = make_model().to(dtype), make_sources()
    exact = make_model()
    found = search(model, source, mask, **SPECIAL, options=options(beam))
    for [best], row, length in zip(found, source, LENGTHS, strict=True):
        output = torch.tensor([[*best.tokens, EOS] if best.finished else best.tokens])
        target = torch.cat([torch.tensor([[BOS]]), output[:, :-1]], dim=1)
        batch = Batch(row[None, :length], None, target, output, None, target.numel())
        total = float(score_targets(exact, batch).sum())
        assert best.log_probability == pytest.approx(total, abs=tolerance * output.shape[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam": 0}, "beam: must be greater than or equal to 1, got 0"),
        ({"n_best": 0}, "n_best: must be greater than or equal to 1, got 0"),
        ({"beam": 2, "n_best": 3}, "n_best (3) must not be larger than the beam (2)"),
        ({"length_penalty": -1.0}, "length_penalty: must be greater than or equal to 0, got -1.0"),
        ({"length_penalty": math.nan}, "length_penalty: must be a finite number, got nan"),
        ({"max_length_ratio": math.inf}, "max_length_ratio: must be a finite number, got inf"),
        ({"max_length_extra": -3}, "max_length_extra: must be greater than or equal to 0, got -3"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        SearchOptions(**changes)


@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_log_probabilities_are_in_float32_at_least(dtype, wide):
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = torch.tensor([[1, 2, 3], [8, 0, 5]])
    found = log_softmax(logits)
    assert found.dtype == wide
    torch.testing.assert_close(found, logits.to(wide).log_softmax(-1))
    torch.testing.assert_close(log_probabilities_of(logits, wanted), found.gather(2, wanted[..., None])[..., 0])
