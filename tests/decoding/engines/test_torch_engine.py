"""Precisions and shortlists: what a translator searches with, and what is refused."""

import pytest
import torch

import qkv
from qkv.decoding.engines.contract import Request
from qkv.decoding.engines.torch_engine import TorchEngine, lower_precision
from qkv.decoding.options import SearchOptions
from qkv.decoding.shortlist import Shortlist
from qkv.errors import UserError
from qkv.nn import Transformer, TransformerConfig

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bf16"}, {"shortlist": 3}], ids=str)
def test_outputs_and_scores_are_close_to_those_of_float32(run, words, options):
    exact, other = qkv.load(run, device="cpu", engine="torch"), qkv.load(run, device="cpu", engine="torch", **options)
    assert isinstance(other.engine, TorchEngine)
    same = sum(a == b for a, b in zip(exact.translate(words), other.translate(words), strict=True))
    assert same >= len(words) - 2
    pairs = [(word, word) for word in words]
    for found, expected in zip(other.score(pairs), exact.score(pairs), strict=True):
        assert found.log_probability == pytest.approx(expected.log_probability, abs=0.3)


def test_a_shortlist_is_learnt_once_and_kept_with_the_run(run):
    qkv.load(run, device="cpu", engine="torch", shortlist=2)
    path = run / "shortlist-2.safetensors"
    before = path.stat().st_mtime_ns
    qkv.load(run, device="cpu", engine="torch", shortlist=2)
    assert path.stat().st_mtime_ns == before


def test_a_shortlist_of_when_lists_were_shorter_is_learnt_anew(run):
    whole = qkv.load(run, device="cpu", engine="torch", shortlist=2).engine.shortlist
    path = run / "shortlist-2.safetensors"
    Shortlist(whole.candidates, whole.always[:3]).save(path)
    assert len(qkv.load(run, device="cpu", engine="torch", shortlist=2).engine.shortlist.always) == len(whole.always)
    assert len(Shortlist.load(path).always) == len(whole.always)


def test_the_model_itself_stays_as_it_is(run):
    translator = qkv.load(run, device="cpu", engine="torch", precision="int8")
    assert all(parameter.dtype == torch.float32 for parameter in translator.model.parameters())
    assert translator.engine.model is not translator.model


def test_who_changes_a_weight_sees_what_comes_of_it(run, words):
    """And who puts a hook on the model is called."""
    translator, calls = qkv.load(run, device="cpu", engine="torch"), []
    before = translator.translate(words)
    with torch.no_grad():
        translator.model.output.weight.mul_(-1.0)
    changed = translator.translate(words)
    assert changed != before
    assert translator.engine.model is not translator.model
    hook = translator.model.decoder.layers[0].attention.output.register_forward_hook(lambda *_: calls.append(1))
    assert translator.translate(words) == changed
    assert calls
    hook.remove()
    assert translator.engine.model is not translator.model


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("int4", "cpu", "unknown precision 'int4'"),
        ("fp16", "cpu", "fp16 is for cuda"),
        ("int8", "cuda", "int8 is for a CPU"),
    ],
)
def test_what_cannot_be_is_refused(precision, device, message):
    model = Transformer(TransformerConfig(9, d_model=8, num_heads=2, d_ff=8, encoder_layers=1, decoder_layers=1))
    with pytest.raises(UserError, match=message):
        lower_precision(model, precision, torch.device(device))


class TestPrefixes:
    def test_each_output_begins_with_its_own(self, run, words):
        translator = qkv.load(run, device="cpu", engine="torch")
        sources, free = translator.encode(words, "source"), translator.tokenizers.target.encode(["g", "ec", ""])
        prefixes = [free[index % 3] for index in range(len(words))]
        for beam in (1, 3):
            options = translator.search_options(beam, None, n_best=1)
            found = translator.search(sources, options, prefixes=prefixes)
            for source, prefix, [best] in zip(sources, prefixes, found, strict=True):
                assert best.tokens[: len(prefix)] == prefix
                [[alone]] = translator.search([source], options, prefixes=[prefix])
                assert best.tokens == alone.tokens
                assert best.log_probability == pytest.approx(alone.log_probability, abs=1e-4)
                if not prefix:
                    [[plain]] = translator.search([source], options)
                    assert best.tokens == plain.tokens

    def test_a_prefix_is_on_the_shortlist(self, run, words):
        translator = qkv.load(run, device="cpu", engine="torch", shortlist=1)
        [source], [prefix] = translator.encode(["dad"], "source"), translator.tokenizers.target.encode(["g"])
        shortlist = Shortlist(torch.full((len(translator.engine.shortlist.candidates), 1), 5), torch.arange(5))
        assert prefix[-1] not in shortlist.of(torch.tensor([source]))
        engine = TorchEngine(translator.model, translator.tokenizers, shortlist=shortlist)
        [[best]] = engine.search(Request([source], SearchOptions(beam=1), prefixes=[prefix]))
        assert best.tokens[: len(prefix)] == prefix

    def test_impossible_ones_are_the_users_mistake(self, run):
        translator = qkv.load(run, device="cpu", engine="torch")
        [source], eos = translator.encode(["dad"], "source"), translator.tokenizers.target.eos
        for search in (
            lambda: translator.search([source], prefixes=[[eos]]),
            lambda: translator.search_recorded(source, prefix=[eos]),
        ):
            with pytest.raises(UserError, match=f"a prefix cannot hold token {eos}"):
                search()


def test_a_recorded_search_finds_what_a_search_finds(run, words):
    translator = qkv.load(run, device="cpu", engine="torch")
    [source], prefix = translator.encode(["dad"], "source"), translator.tokenizers.target.encode(["d"])[0]
    for begun in ([], prefix):
        [expected] = translator.search([source], prefixes=[begun])
        found, tree = translator.search_recorded(source, prefix=begun)
        assert found == expected
        assert [tree.candidates[index].token for index in tree.path(found[0].tokens)] == found[0].tokens


@pytest.mark.parametrize("threads", [1, 2])
def test_autocast_holds_in_every_thread(run, words, threads):
    translator = qkv.load(run, device="cpu", engine="torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = TorchEngine(translator.model, translator.tokenizers, autocast="bf16")
        assert not engine.exact
        dtypes = []
        translator.model.output.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
        engine.search(Request(translator.encode(words * 20, "source")), batch_tokens=400)
    finally:
        torch.set_num_threads(before)
    assert set(dtypes) == {torch.bfloat16}
