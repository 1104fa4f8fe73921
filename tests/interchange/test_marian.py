"""A MarianMTModel computes what the Transformer does that it was exported from, and comes back as it was."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from qkv.errors import UserError
from qkv.interchange.marian import MARIAN, import_marian
from qkv.nn.architectures import ARCHITECTURES
from qkv.text.batches import pad

OPTIONS = [
    {},
    {"tie": "target"},
    {"activation": "gelu"},
    {"bias": False},
    {"d_model": 10, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 3},
    {"d_model": 9, "num_heads": 3},
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "marian"


def write(model, tokenizers, path):
    path.mkdir()
    MARIAN.write(model, tokenizers, path)
    return path


def logits_of(model, tokenizers, sources, targets):
    """Of every token of padded sources and targets; and which target tokens are real."""
    source, source_mask = pad(sources, tokenizers.source.pad)
    target, mask = pad([[tokenizers.target.bos, *target[:-1]] for target in targets], tokenizers.target.pad)
    return model(source, target, source_mask), source, source_mask, target, mask


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


class TestTransformers:
    """Against the package itself."""

    @torch.no_grad()
    @pytest.mark.parametrize("joint_vocabulary", [False, True])
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_logits_are_equal(self, options, joint_vocabulary, joint, separate, make_model, encode, path, transformers):
        tokenizers = joint if joint_vocabulary else separate
        model = make_model(tokenizers, **({"tie": "all"} if joint_vocabulary else {}) | options)
        write(model, tokenizers, path)
        theirs = transformers.MarianMTModel.from_pretrained(path).eval()
        sources, targets = encode(tokenizers), encode(tokenizers, "target")
        expected, source, source_mask, target, mask = logits_of(model, tokenizers, sources, targets)
        found = theirs(input_ids=source, attention_mask=source_mask.long(), decoder_input_ids=target).logits
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-5 * expected.abs().max().item())

    @torch.no_grad()
    def test_it_keeps_its_positions_when_it_is_saved_again(self, joint, make_model, encode, path, transformers):
        model = make_model(joint, tie="all")
        write(model, joint, path)
        transformers.MarianMTModel.from_pretrained(path).save_pretrained(path / "again")
        back = import_marian(path / "again")
        sources, targets = encode(joint), encode(joint, "target")
        expected, found = (logits_of(each, joint, sources, targets)[0] for each in (model, back))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("tie", ["all", "target", "none"])
    def test_one_made_by_transformers(self, tie, joint, encode, path, transformers):
        torch.manual_seed(0)
        config = transformers.MarianConfig(
            vocab_size=60,
            d_model=16,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=20,
            decoder_ffn_dim=20,
            activation_function="relu",
            scale_embedding=True,
            share_encoder_decoder_embeddings=tie == "all",
            tie_word_embeddings=tie != "none",
            pad_token_id=0,
            eos_token_id=2,
            init_std=0.3,
        )
        theirs = transformers.MarianMTModel(config).eval()
        theirs.save_pretrained(path)
        model = import_marian(path)
        assert model.config.tie == tie
        sources, targets = encode(joint), encode(joint, "target")
        found, source, source_mask, target, mask = logits_of(model, joint, sources, targets)
        with torch.no_grad():
            expected = theirs(input_ids=source, attention_mask=source_mask.long(), decoder_input_ids=target).logits
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("joint_vocabulary", [False, True])
    def test_its_tokenizer_makes_the_same_ids(self, joint_vocabulary, joint, separate, make_model, path, transformers):
        tokenizers = joint if joint_vocabulary else separate
        write(make_model(tokenizers), tokenizers, path)
        theirs = transformers.MarianTokenizer.from_pretrained(path)
        for text in ["a man rides a bicycle", "two women, unseen?", "the  dog"]:
            expected = [*tokenizers.source.encode([text])[0], tokenizers.source.eos]
            assert theirs(text)["input_ids"] == expected
        expected = [*tokenizers.target.encode(["ein Mann sieht ihn"])[0], tokenizers.target.eos]
        assert theirs(text_target="ein Mann sieht ihn")["input_ids"] == expected

    def test_generates_what_greedy_search_finds(self, joint, make_model, encode, path, transformers):
        from qkv.decoding.options import SearchOptions
        from qkv.decoding.search import search

        model = make_model(joint)
        write(model, joint, path)
        theirs = transformers.MarianMTModel.from_pretrained(path).eval()
        target = joint.target
        for source in encode(joint):
            ids = torch.tensor([source])
            options = SearchOptions(beam=1, max_length_ratio=0.0, max_length_extra=12)
            [[found]] = search(model, ids, bos=target.bos, eos=target.eos, pad=target.pad, options=options)
            generated = theirs.generate(ids, max_new_tokens=12, do_sample=False, num_beams=1)[0].tolist()
            assert generated[0] == target.bos
            assert [token for token in generated[1:] if token != target.eos] == found.tokens


class TestRoundTrip:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_weights_come_back(self, options, separate, make_model, path):
        model = make_model(separate, **options)
        back = import_marian(write(model, separate, path))
        assert {**vars(back.config), "bias": model.config.bias} == vars(model.config)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(back.state_dict()[name], tensor, rtol=0, atol=0)

    def test_what_the_user_may_have_wrong(self, joint, make_model, path):
        with pytest.raises(UserError, match=r"config.json: does not describe a Marian model"):
            import_marian(path)
        write(make_model(joint, tie="all"), joint, path)
        weights, config = load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text())

        def changed(message, weights=weights, **keys):
            (path / "config.json").write_text(json.dumps(config | keys))
            save_file(weights, path / "model.safetensors")
            with pytest.raises(UserError, match=message):
                import_marian(path)

        changed("no Marian model, but 'bart'", model_type="bart")
        changed("activation_function is swish", activation_function="swish")
        changed("scale_embedding is false", scale_embedding=False)
        changed("ffn_dim differs between encoder and decoder", decoder_ffn_dim=99)
        changed(r"fc1.weight is \(24, 16\); its config says \(25, 16\)", encoder_ffn_dim=25, decoder_ffn_dim=25)
        changed("model.encoder.layers.2.self_attn.q_proj.weight is missing", encoder_layers=3)
        changed("the output has a bias", weights | {"final_logits_bias": torch.ones(1, 60)})
        (path / "config.json").write_text("{")
        with pytest.raises(UserError, match=r"config.json: does not describe a Marian model"):
            import_marian(path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm": "batch"}, "norm=batch"),
            ({"norm_position": "pre"}, "norm_position=pre"),
            ({"final_norm": True}, "final_norm=true"),
            ({"residual": False}, "residual=false"),
            ({"scale_scores": False}, "scale_scores=false"),
            ({"activation": "swiglu"}, "activation=swiglu"),
            ({"position": "learned"}, "position=learned"),
            ({"position": "rotary"}, "position=rotary"),
            ({"position": "none"}, "position=none"),
            ({"causal": False}, "causal=false"),
            ({"mask_padding": False}, "mask_padding=false"),
        ],
    )
    def test_what_marian_lacks(self, options, message, joint, make_model):
        with pytest.raises(UserError, match=f"^Marian has no model with {message}; "):
            MARIAN.refuse(make_model(joint, **options))

    def test_other_architectures(self):
        model = ARCHITECTURES["gru"].build(ARCHITECTURES["gru"].config(60, d_model=8, **ARCHITECTURES["gru"].implied))
        with pytest.raises(UserError, match=r"this model is a RecurrentSeq2Seq$"):
            MARIAN.refuse(model)
