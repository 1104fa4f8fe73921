"""From text to text: what is between the strings and the search. Weights are random, tokenizers are real."""

import importlib.util
import math

import pytest
import torch

import qkv
from qkv.decoding.engines.registry import ENGINES
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.errors import UserError
from qkv.files import point, write_text
from qkv.nn import Transformer, TransformerConfig
from qkv.run.checkpoint import TrainingState, save_checkpoint
from qkv.run.directory import Run
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings
from qkv.translator import Translation, Translator

SOURCES = [
    "a man rides a bicycle",
    "a dog",
    "two women and a man sit in the sun",
    "",
    "the dog sees the man",
    "a bicycle",
    "   ",
    "two dogs run",
]
TARGETS = [
    "ein Mann fährt Fahrrad",
    "ein Hund",
    "zwei Frauen und ein Mann sitzen in der Sonne",
    "",
    "der Hund sieht den Mann",
    "ein Fahrrad",
    "   ",
    "zwei Hunde rennen",
]
PAIRS = list(zip(SOURCES, TARGETS, strict=True))
WORDLESS = [index for index, source in enumerate(SOURCES) if not source.strip()]
OPTIONS = SearchOptions(beam=3, max_length_ratio=1.0, max_length_extra=4)


@pytest.fixture(scope="module")
def tokenizers_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    pairs = map(Pair, SOURCES, TARGETS)
    Tokenizers.learn(pairs, path, TokenizerSettings(kind="bpe", vocab_size=60, joint=False))
    return path


@pytest.fixture(scope="module")
def tokenizers(tokenizers_path):
    return Tokenizers.load(tokenizers_path)


def make_model(tokenizers, **changes):
    torch.manual_seed(2)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 1}
    vocabularies = {
        "vocab_size": tokenizers.source.vocab_size,
        "target_vocab_size": tokenizers.target.vocab_size,
    }
    model = Transformer(TransformerConfig(**(vocabularies | sizes | {"tie": "none"} | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
        # The source tells more than the last token, else one piece is repeated for ever.
        model.target_embedding.tokens.weight.mul_(0.3)
        model.decoder.layers[0].cross_attention.output.weight.mul_(2)
        model.output.weight[tokenizers.target.eos].mul_(3)
    return model.double()


@pytest.fixture(scope="module")
def translator(tokenizers):
    return Translator(make_model(tokenizers), tokenizers, options=OPTIONS)


def with_budget(translator, batch_tokens):
    return Translator(translator.model, translator.tokenizers, options=translator.options, batch_tokens=batch_tokens)


@pytest.fixture
def searched_batches(monkeypatch):
    """(rows, width) of every batch that is searched."""
    shapes = []

    def recording_search(model, source, *args, **kwargs):
        shapes.append(tuple(source.shape))
        return search(model, source, *args, **kwargs)

    monkeypatch.setattr("qkv.decoding.engines.torch_engine.search", recording_search)
    return shapes


class TestTranslate:
    @pytest.mark.parametrize("batch_tokens", [1, 40, 100, 8192])
    def test_many_equal_each_alone_in_the_order_given(self, translator, batch_tokens):
        expected = [translator.translate(source) for source in SOURCES]
        assert len(set(expected)) > 4
        assert with_budget(translator, batch_tokens).translate(SOURCES) == expected

    def test_one_text_gives_one_text(self, translator):
        assert translator.translate(SOURCES[0]) == translator.translate([SOURCES[0]])[0]
        assert isinstance(translator.translate(SOURCES[0]), str)

    def test_any_order_gives_the_same(self, translator):
        backwards = translator.translate(SOURCES[::-1])
        assert backwards[::-1] == translator.translate(SOURCES)

    def test_blank_sources_give_empty_outputs(self, translator, searched_batches):
        outputs = translator.translate(SOURCES)
        assert [index for index, output in enumerate(outputs) if output == ""] == WORDLESS
        assert sum(rows for rows, _ in searched_batches) == len(SOURCES) - len(WORDLESS)
        assert translator.translate("") == ""
        assert translator.translate(["", " "]) == ["", ""]

    def test_nothing_gives_nothing(self, translator):
        assert translator.translate([]) == []
        assert translator.n_best([], 2) == []
        assert translator.score([]) == []

    @pytest.mark.parametrize("batch_tokens", [60, 120])
    def test_batches_keep_within_their_budget(self, translator, batch_tokens, searched_batches):
        with_budget(translator, batch_tokens).translate(SOURCES)
        assert len(searched_batches) > 1
        assert all(rows * width * OPTIONS.beam <= batch_tokens or rows == 1 for rows, width in searched_batches)
        widths = [width for _, width in searched_batches]
        assert widths == sorted(widths, reverse=True)

    def test_a_text_longer_than_the_budget_is_translated_all_the_same(self, translator):
        assert with_budget(translator, 10).translate("a dog " * 30) != ""

    def test_unknown_characters_are_no_error(self, translator):
        assert isinstance(translator.translate("東京 ☃"), str)

    def test_equals_the_search(self, translator, tokenizers):
        source, target = tokenizers.source, tokenizers.target
        ids = torch.tensor([[*source.encode([SOURCES[0]])[0], source.eos]])
        special = {"bos": target.bos, "eos": target.eos, "pad": target.pad}
        [[best]] = search(translator.model, ids, None, **special, options=OPTIONS)
        assert translator.translate(SOURCES[0]) == target.decode([best.tokens])[0]

    def test_a_call_may_search_otherwise(self, translator):
        def translator_with(**changes):
            options = OPTIONS.changed(**changes)
            return Translator(translator.model, translator.tokenizers, options=options)

        greedy = translator.translate(SOURCES, beam=1)
        assert greedy == translator_with(beam=1).translate(SOURCES)
        assert greedy != translator.translate(SOURCES)
        plain = translator.n_best(SOURCES, 3, length_penalty=0.0)
        assert plain == translator_with(length_penalty=0.0).n_best(SOURCES, 3)
        assert all(output.score == output.log_probability for outputs in plain for output in outputs)

    def test_impossible_options_are_the_users_mistake(self, translator):
        with pytest.raises(UserError, match="beam: must be greater than or equal to 1, got 0"):
            translator.translate("a dog", beam=0)
        with pytest.raises(UserError, match="length_penalty: must be greater than or equal to 0, got -1"):
            translator.translate("a dog", length_penalty=-1.0)

    def test_dropout_is_off(self, tokenizers):
        model = make_model(tokenizers, dropout=0.5).train()
        translator = Translator(model, tokenizers, options=OPTIONS)
        assert translator.translate(SOURCES) == translator.translate(SOURCES)


class TestNBest:
    def test_best_first_and_the_first_is_the_translation(self, translator):
        found = translator.n_best(SOURCES, 3)
        assert [best[0].text for best in found] == translator.translate(SOURCES, beam=translator.beam_for(3))
        for index, outputs in enumerate(found):
            assert 1 <= len(outputs) <= (1 if index in WORDLESS else 3)

    def test_blank_sources(self, translator):
        assert translator.n_best([""], 3) == [[Translation("", 0.0, 0.0, [])]]

    def test_a_text_is_no_list_of_texts(self, translator):
        """Its letters would be."""
        with pytest.raises(UserError, match=r"n_best takes a list of sources, not a text: \[source\]"):
            translator.n_best("abc", 1)

    def test_tokens_make_up_the_text(self, translator, tokenizers):
        for outputs in translator.n_best(SOURCES, 2):
            for output in outputs:
                text = "".join(output.tokens).replace("▁", " ").replace("<unk>", " ⁇ ")
                assert text.split() == output.text.split()

    def test_the_beam_is_widened_to_n_unless_it_is_given(self, translator):
        [outputs] = translator.n_best(["a dog"], 7)
        assert len(outputs) == 7
        with pytest.raises(UserError, match=r"n_best \(7\) must not be larger than the beam \(2\)"):
            translator.n_best(["a dog"], 7, beam=2)
        with pytest.raises(UserError, match="n_best: must be greater than or equal to 1, got 0"):
            translator.n_best(["a dog"], 0)


class TestScore:
    @pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
    def test_many_equal_each_alone_in_the_order_given(self, translator, batch_tokens):
        found = with_budget(translator, batch_tokens).score(PAIRS)
        for score, pair in zip(found, PAIRS, strict=True):
            [alone] = translator.score([pair])
            assert score.tokens == alone.tokens
            assert score.token_log_probabilities == pytest.approx(alone.token_log_probabilities, rel=1e-9)

    def test_equals_the_models_own_probabilities(self, translator, tokenizers):
        source, target = tokenizers.source, tokenizers.target
        [score] = translator.score([PAIRS[0]])
        ids = target.encode([TARGETS[0]])[0]
        sources = torch.tensor([[*source.encode([SOURCES[0]])[0], source.eos]])
        logits = translator.model(sources, torch.tensor([[target.bos, *ids]]))[0]
        expected = logits.log_softmax(-1)[range(len(ids) + 1), [*ids, target.eos]].tolist()
        assert score.token_log_probabilities == pytest.approx(expected, rel=1e-9)
        assert score.tokens == target.pieces([*ids, target.eos])
        assert score.log_probability == pytest.approx(sum(expected))
        assert score.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)))

    def test_an_empty_target_is_its_end_alone(self, translator, tokenizers):
        [score] = translator.score([("a dog", "")])
        assert score.tokens == tokenizers.target.pieces([tokenizers.target.eos])


class TestEngine:
    def test_there_always_is_one_and_it_stays(self, translator):
        assert isinstance(translator.engine, TorchEngine)
        assert translator.reference is translator.engine
        with pytest.raises(AttributeError):
            translator.engine = None

    def test_the_reference_is_the_model_itself(self, translator):
        engine = TorchEngine(translator.model.float(), translator.tokenizers, precision="bf16")
        other = Translator(translator.model, translator.tokenizers, options=OPTIONS, engine=engine)
        translator.model.double()
        assert other.engine is engine
        assert other.reference.exact
        assert other.reference is not engine
        [source] = other.encode(["a dog"], "source")
        assert other.search_recorded(source)[0] == translator.search([source])[0]

    def test_ids_in_and_ids_out(self, translator, tokenizers):
        sources, targets = translator.encode(SOURCES, "source"), translator.encode(TARGETS, "target")
        found = translator.search(sources, translator.search_options(2, None, n_best=2))
        assert [len(row) for row in found] == [2] * len(SOURCES)
        text = tokenizers.target.decode([found[0][0].tokens])[0]
        assert text == translator.translate(SOURCES[0], beam=2)
        scores = translator.score_ids(sources, targets)
        assert scores == [score.token_log_probabilities for score in translator.score(PAIRS)]


class TestLearnedPositions:
    """A model that has only so many positions."""

    @pytest.fixture
    def short(self, tokenizers):
        model = make_model(tokenizers, position="learned", max_length=16)
        options = SearchOptions(beam=2, max_length_ratio=9.0, max_length_extra=50)
        return Translator(model, tokenizers, options=options)

    def test_an_output_ends_where_the_positions_do(self, short):
        [[output]] = short.n_best(["a dog"], 1)
        assert len(output.tokens) <= 16

    def test_what_is_too_long_is_named(self, short):
        long = "a man rides a bicycle " * 10
        with pytest.raises(UserError, match=r"source 2 has \d+ tokens, .* 16 positions"):
            short.translate(["a dog", long])
        with pytest.raises(UserError, match=r"source 1 has \d+ tokens, .* 16 positions"):
            short.score([(long, "ein Hund")])
        with pytest.raises(UserError, match=r"target 1 has \d+ tokens, .* 16 positions"):
            short.score([("a dog", "ein Mann fährt Fahrrad " * 10)])


class TestLoad:
    @pytest.fixture
    def run(self, tmp_path, tokenizers, tokenizers_path):
        """A run directory as training leaves it, with two checkpoints, the first one the best."""
        run = Run(tmp_path / "run")
        write_text(run.config_path, "decoding: {beam: 2, length_penalty: 0.5, batch_tokens: 300}\n")
        run.tokenizer_path.symlink_to(tokenizers_path)
        for step, seed in ((10, 0), (20, 1)):
            model = make_model(tokenizers).float()
            torch.manual_seed(seed)
            torch.nn.init.normal_(model.output.weight)
            save_checkpoint(run.checkpoint_path(step), model, model.config, "transformer", TrainingState(step=step))
        point(run.best_path, run.checkpoint_path(10))
        return run

    def test_translates_with_the_best_checkpoint(self, run):
        loaded = qkv.load(run.path, device="cpu")
        assert loaded.translate(SOURCES) == qkv.load(str(run.path), checkpoint="step-00000010").translate(SOURCES)
        last = qkv.load(run.path, checkpoint=run.checkpoint_path(20), device="cpu")
        assert loaded.translate(SOURCES) != last.translate(SOURCES)

    def test_takes_the_runs_own_decoding_options(self, run):
        loaded = qkv.load(run.path)
        assert loaded.options == SearchOptions(beam=2, length_penalty=0.5, max_length_ratio=2.0, max_length_extra=10)
        assert loaded.batch_tokens == 300
        assert not loaded.model.training

    def test_the_process_stays_as_it_was(self, run, monkeypatch):
        """Commands of our own may change it; a program that uses the library may not be changed by it."""
        monkeypatch.setattr("qkv.devices.ctypes.CDLL", lambda name: pytest.fail("the allocator is asked for"))
        numbers = torch.__config__.parallel_info()
        for engine in ENGINES:
            if engine != "ctranslate2" or importlib.util.find_spec("ctranslate2") is not None:
                qkv.load(run.path, device="cpu", engine=engine).translate(SOURCES)
        assert torch.__config__.parallel_info() == numbers

    def test_the_users_mistakes(self, run, tmp_path):
        with pytest.raises(UserError, match="no such run directory"):
            qkv.load(tmp_path / "nothing")
        with pytest.raises(UserError, match="no such checkpoint"):
            qkv.load(run.path, checkpoint="step-00000030")
        with pytest.raises(UserError, match="unknown device 'gpu'"):
            qkv.load(run.path, device="gpu")
