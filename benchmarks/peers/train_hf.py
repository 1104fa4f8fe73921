"""Hugging Face transformers: MarianMTModel, trained as its Trainer does (fused Adam, clipping, batches by length)."""

from typing import Any

import torch
from pairs import BOS, EOS, PAD, Pairs, sorted_pools
from torch import nn
from torch.nn import functional as F
from transformers import MarianConfig, MarianMTModel
from worker import Command, serve, training


def configuration(options: dict[str, Any]) -> MarianConfig:
    """The model compared, in Marian's words."""
    layers, heads, d_ff = options["layers"], options["num_heads"], options["d_ff"]
    return MarianConfig(
        vocab_size=options["vocab_size"],
        d_model=options["d_model"],
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=d_ff,
        decoder_ffn_dim=d_ff,
        activation_function="relu",
        dropout=options["dropout"],
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=options["d_model"] ** -0.5,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        use_cache=False,
    )


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    pairs = Pairs(options["pairs"])
    batches = sorted_pools(pairs, options["batch_tokens"], options["seed"])
    model = MarianMTModel(configuration(options)).train()
    adam = torch.optim.Adam(model.parameters(), lr=options["learning_rate"], betas=(0.9, 0.98), eps=1e-9, fused=True)

    def step() -> tuple[int, float]:
        indices = next(batches)
        source, target = pairs.tensor("source", indices), pairs.tensor("target", indices)
        logits = model(
            input_ids=source,
            attention_mask=(source != PAD).long(),
            decoder_input_ids=pairs.tensor("target", indices, begin=True),
        ).logits
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=options["label_smoothing"]
        )
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
        adam.step()
        return int((target != PAD).sum()), loss.item()

    return training(step)


if __name__ == "__main__":
    serve(build)
