"""CTranslate2 computes, searches and scores as the model does that was exported; what it cannot do is refused."""

import itertools
import re
import threading

import pytest
import torch

from qkv.decoding.engines.contract import Engine, Request
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.ctranslate2_model import specification, vocabulary
from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.errors import UserError
from qkv.nn.architectures import ARCHITECTURES
from qkv.text.batches import pad

ctranslate2 = pytest.importorskip("ctranslate2")


def written(model, tokenizers, path, quantization="float32"):
    path.mkdir()
    specification(model, tokenizers, quantization).save(str(path))
    return path


@pytest.fixture
def export(tmp_path):
    """A function that exports a model and opens it."""

    numbers = itertools.count()

    def opened(model, tokenizers, *, quantization="float32", precision="float32", longest=4096):
        path = written(model, tokenizers, tmp_path / f"exported-{next(numbers)}", quantization)
        return CTranslate2Engine(path, tokenizers, longest=longest, precision=precision)

    return opened


def scores_of(model, sources, targets, tokenizers):
    """Log-probabilities of each target's tokens by the model itself, one pair at a time."""
    bos = tokenizers.target.bos
    rows = []
    for source, target in zip(sources, targets, strict=True):
        logits = model(torch.tensor([source]), torch.tensor([[bos, *target[:-1]]]))[0]
        rows.append(logits.log_softmax(-1)[range(len(target)), target].tolist())
    return rows


def flat(rows):
    return [value for row in rows for value in row]


def searched_by_torch(model, sources, tokenizers, options):
    target = tokenizers.target
    padded, mask = pad(sources, tokenizers.source.pad)
    return search(model, padded, mask, bos=target.bos, eos=target.eos, pad=target.pad, options=options)


def never_emitting(model, tokenizers):
    """Take from the model what CTranslate2 takes out before its softmax."""
    bias = torch.zeros(tokenizers.target.vocab_size)
    bias[[tokenizers.target.pad, tokenizers.target.bos]] = -torch.inf
    model.project = lambda hidden: model.output(hidden) + bias
    return model


class TestWeights:
    @torch.no_grad()
    @pytest.mark.parametrize("joint_vocabulary", [False, True])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"norm_position": "pre"},
            {"norm_position": "pre", "final_norm": False},
            {"final_norm": True},
            {"activation": "gelu"},
            {"activation": "swiglu"},
            {"activation": "swiglu", "bias": False},
            {"bias": False},
            {"position": "learned", "max_length": 40},
            {"position": "rotary"},
            {"position": "none"},
            {"scale_scores": False},
            {"num_heads": 1, "encoder_layers": 1, "decoder_layers": 3},
            {"tie": "target"},
        ],
        ids=str,
    )
    def test_every_option_computes_the_same(
        self, options, joint_vocabulary, joint, separate, make_model, encode, export
    ):
        tokenizers = joint if joint_vocabulary else separate
        model = make_model(tokenizers, **({"tie": "all"} if joint_vocabulary else {}) | options)
        sources, targets = encode(tokenizers), encode(tokenizers, "target")
        found = flat(export(model, tokenizers).score(sources, targets))
        expected = flat(scores_of(model, sources, targets, tokenizers))
        assert found == pytest.approx(expected, abs=1e-5 * max(map(abs, expected)))

    @torch.no_grad()
    @pytest.mark.parametrize(
        ("quantization", "precision", "allowed"),
        [("int8", "int8", 0.1), ("int8", "float32", 0.05), ("int16", "float32", 0.01), ("float16", "float32", 0.002)],
    )
    def test_other_weights_compute_nearly_the_same(
        self, quantization, precision, allowed, joint, make_model, encode, export
    ):
        model = make_model(joint, d_model=64, d_ff=64)
        for parameter in model.parameters():
            parameter.mul_(0.3)  # less sharp than the others, as trained models are
        sources, targets = encode(joint), encode(joint, "target")
        found = flat(export(model, joint, quantization=quantization, precision=precision).score(sources, targets))
        expected = flat(scores_of(model, sources, targets, joint))
        distance = sum(abs(a - b) for a, b in zip(found, expected, strict=True)) / len(expected)
        assert 0 < distance < allowed

    def test_int8_takes_least_space(self, joint, make_model, tmp_path):
        model = make_model(joint, position="rotary")  # without a table of positions, which stays as it is
        sizes = [
            (written(model, joint, tmp_path / kind, kind) / "model.bin").stat().st_size
            for kind in ("int8", "float16", "float32")
        ]
        assert sizes == sorted(sizes)

    def test_the_model_is_left_as_it_was(self, joint, make_model, tmp_path):
        model, untouched = make_model(joint), make_model(joint)
        written(model, joint, tmp_path / "exported", "int8")
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, untouched.state_dict()[name]), name


class TestSearch:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 1.4])
    @pytest.mark.parametrize(("beam", "n_best"), [(1, 1), (4, 1), (4, 4)])
    def test_finds_what_torch_finds(self, seed, length_penalty, beam, n_best, separate, make_model, encode, export):
        model = make_model(separate, seed=seed, norm_position="pre")
        sources = encode(separate)
        options = SearchOptions(
            beam=beam, length_penalty=length_penalty, max_length_ratio=1.5, max_length_extra=4, n_best=n_best
        )
        found = export(model, separate).search(Request(sources, options))
        expected = searched_by_torch(never_emitting(model, separate), sources, separate, options)
        for row, wanted in zip(found, expected, strict=True):
            assert [each.tokens for each in row] == [each.tokens for each in wanted]
            assert [each.finished for each in row] == [each.finished for each in wanted]
            assert [each.score for each in row] == pytest.approx([each.score for each in wanted], abs=1e-4)
            ours, theirs = ([each.log_probability for each in each_row] for each_row in (row, wanted))
            assert ours == pytest.approx(theirs, abs=1e-4)

    def test_the_models_above_end_some_outputs_and_not_others(self, separate, make_model, encode):
        options = SearchOptions(beam=4, max_length_ratio=1.5, max_length_extra=4, n_best=4)
        finished = set()
        for seed in range(4):
            model = never_emitting(make_model(separate, seed=seed, norm_position="pre"), separate)
            found = searched_by_torch(model, encode(separate), separate, options)
            finished |= {each.finished for row in found for each in row}
        assert finished == {True, False}

    @pytest.mark.parametrize("beam", [1, 3])
    @pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_many_equal_each_alone(self, threads, beam, batch_tokens, joint, make_model, encode, export, monkeypatch):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        engine = export(make_model(joint), joint)
        sources = encode(joint)
        options = SearchOptions(beam=beam, max_length_ratio=0.5, max_length_extra=3)
        done = []
        found = engine.search(Request(sources, options), batch_tokens=batch_tokens, on_progress=done.append)
        assert sum(done) == len(sources)
        for source, [hypothesis] in zip(sources, found, strict=True):
            [[alone]] = engine.search(Request([source], options))
            assert hypothesis.tokens == alone.tokens
            assert len(alone.tokens) + alone.finished <= len(source) // 2 + 3

    def test_padding_and_beginning_are_never_emitted(self, joint, make_model, encode, export):
        model = make_model(joint)
        with torch.no_grad():
            model.output.weight[[joint.target.pad, joint.target.bos]] *= 9
        options = SearchOptions(beam=4, n_best=4, max_length_extra=5)
        found = export(model, joint).search(Request(encode(joint), options))
        emitted = {token for row in found for each in row for token in each.tokens}
        assert not emitted & {joint.target.pad, joint.target.bos, joint.target.eos}

    @torch.no_grad()
    def test_log_probabilities_are_higher_by_what_is_never_emitted(self, joint, make_model, encode, export):
        model = make_model(joint)
        sources, target = encode(joint), joint.target
        found = export(model, joint).search(Request(sources, SearchOptions(beam=1, max_length_extra=30)))
        for source, [hypothesis] in zip(sources, found, strict=True):
            tokens = [*hypothesis.tokens, target.eos] if hypothesis.finished else hypothesis.tokens
            logits = model(torch.tensor([source]), torch.tensor([[target.bos, *tokens[:-1]]]))[0]
            probabilities = logits.softmax(-1)
            plain = probabilities[range(len(tokens)), tokens].log().sum().item()
            lost = (1 - probabilities[:, [target.pad, target.bos]].sum(-1)).log().sum().item()
            assert lost < -1e-3
            assert hypothesis.log_probability == pytest.approx(plain - lost, abs=1e-3)

    def test_a_source_without_tokens_has_an_empty_output(self, joint, make_model, export):
        [[hypothesis]] = export(make_model(joint), joint).search(
            Request([[joint.source.eos]], SearchOptions(beam=3, n_best=3))
        )
        assert hypothesis.tokens == []
        assert hypothesis.finished

    def test_no_sources_have_no_outputs(self, joint, make_model, export):
        assert export(make_model(joint), joint).search(Request([], SearchOptions())) == []

    def test_leaves_torch_its_threads(self, joint, make_model, encode, export):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            numbers = torch.__config__.parallel_info()
            export(make_model(joint), joint).search(Request(encode(joint), SearchOptions()), batch_tokens=1)
            assert torch.__config__.parallel_info() == numbers
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_worker_of_one_thread_for_each_of_torchs(self, threads, joint, make_model, encode, export, monkeypatch):
        """So a single sentence has one thread, and of many sentences as many batches are searched at once."""
        made, at_once = [], threading.Barrier(threads)

        class Recorded:
            def __init__(self, path, **options):
                made.append(options)
                self._translator, self._waiting = translator(path, **options), iter(range(threads))

            def translate_batch(self, sources, **options):
                if len(encoded) > 1 and next(self._waiting, None) is not None:
                    at_once.wait(timeout=60)
                return self._translator.translate_batch(sources, **options)

        translator = ctranslate2.Translator
        monkeypatch.setattr(ctranslate2, "Translator", Recorded)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        for encoded in (encode(joint)[:1], encode(joint)):
            export(make_model(joint), joint).search(Request(encoded, SearchOptions(beam=1)), batch_tokens=1)
        assert [options["intra_threads"] for options in made] == [1, 1]
        assert [options["inter_threads"] for options in made] == [threads, threads]

    def test_keeps_the_contract(self, joint, make_model, export):
        assert isinstance(export(make_model(joint), joint), Engine)


class TestVocabulary:
    def test_every_id_has_a_name_of_its_own(self, joint, monkeypatch):
        tokenizer = joint.target
        pieces = ["<pad>", "<s>", "</s>", "<unk>", "\n", "", "a", "a", *(f"p{i}" for i in range(8, 60))]
        monkeypatch.setattr(tokenizer, "pieces", lambda ids: [pieces[i] for i in ids])
        names = vocabulary(tokenizer)
        assert len(set(names)) == len(names) == tokenizer.vocab_size
        assert names[4:6] == ["\n", ""]

    def test_odd_pieces_come_back(self, joint, make_model, encode, export, monkeypatch):
        model = never_emitting(make_model(joint), joint)
        names = [f"\n{i // 2}" if i > 3 else piece for i, piece in enumerate(joint.target.pieces(range(60)))]
        monkeypatch.setattr(joint.target, "pieces", lambda ids: [names[i] for i in ids])
        sources = encode(joint)
        options = SearchOptions(beam=1, max_length_extra=4)
        found = export(model, joint).search(Request(sources, options))
        expected = searched_by_torch(model, sources, joint, options)
        assert [row[0].tokens for row in found] == [row[0].tokens for row in expected]

    def test_a_tokenizer_of_another_size_is_refused(self, joint, separate, make_model):
        with pytest.raises(UserError, match="the model has 61 source tokens, its tokenizer 60"):
            specification(make_model(joint, vocab_size=61), joint)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm": "batch"}, "norm=batch"),
            ({"norm": "none"}, "norm=none"),
            ({"residual": False}, "residual=false"),
            ({"causal": False}, "causal=false"),
            ({"mask_padding": False}, "mask_padding=false"),
        ],
    )
    def test_what_ctranslate2_lacks(self, options, message, joint, make_model):
        with pytest.raises(UserError, match=f"CTranslate2 cannot run a model with {message}"):
            specification(make_model(joint, **options), joint)

    @pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"transformer"}))
    def test_other_architectures(self, name, joint):
        architecture = ARCHITECTURES[name]
        model = architecture.build(architecture.config(60, d_model=8, **architecture.implied))
        with pytest.raises(UserError, match=f"this model is a {type(model).__name__}"):
            specification(model, joint)

    def test_sequences_beyond_the_positions(self, joint, make_model, encode, export):
        engine = export(make_model(joint, position="learned", max_length=6), joint, longest=6)
        long = [[*[9] * 6, joint.source.eos]]
        short = [[9, joint.source.eos]]
        with pytest.raises(UserError, match=r"source 1 has 7 tokens, .* positions for 6"):
            engine.search(Request(long, SearchOptions()))
        with pytest.raises(UserError, match=r"target 1 has 7 tokens, .* positions for 6"):
            engine.score(short, long)
        [[hypothesis]] = engine.search(Request(short, SearchOptions(beam=1, max_length_extra=99)))
        assert len(hypothesis.tokens) <= 6

    def test_a_precision_that_this_machine_lacks(self, joint, make_model, export, monkeypatch):
        monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: {"float32", "int8"})
        with pytest.raises(UserError, match=r"cannot compute in bfloat16 here, but in float32, int8"):
            export(make_model(joint), joint, precision="bf16")

    def test_a_prefix(self, joint, make_model, export):
        engine, source = export(make_model(joint), joint), [9, joint.source.eos]
        with pytest.raises(UserError, match="engine ctranslate2 cannot begin outputs with a prefix: take engine torch"):
            engine.search(Request([source], prefixes=[[9]]))

    def test_no_model(self, joint, tmp_path):
        with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}: CTranslate2 cannot load it"):
            CTranslate2Engine(tmp_path, joint, longest=9).search(Request([[9, joint.source.eos]], SearchOptions()))
