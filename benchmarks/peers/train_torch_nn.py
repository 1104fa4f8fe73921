"""torch.nn.Transformer in a training loop of the usual kind: batches padded to the longest, all logits at once."""

import math
from typing import Any

import torch
from pairs import PAD, Pairs, shuffled, sorted_pools
from torch import Tensor, nn
from torch.nn import functional as F
from worker import Command, serve, training


class Model(nn.Module):
    """Embedding × √d_model + sinusoidal positions, nn.Transformer (post-norm), projection tied to the embedding."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        width, layers = options["d_model"], options["layers"]
        self.embedding = nn.Embedding(options["vocab_size"], width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(options["dropout"])
        self.transformer = nn.Transformer(
            d_model=width,
            nhead=options["num_heads"],
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            dim_feedforward=options["d_ff"],
            dropout=options["dropout"],
            batch_first=True,
        )
        only_residual_dropout(self.transformer)
        place = torch.arange(1024)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.register_buffer("positions", torch.stack((place.sin(), place.cos()), dim=2).flatten(1))

    def embed(self, ids: Tensor) -> Tensor:
        """Tokens and their places."""
        vectors = self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(vectors + self.positions[: ids.shape[1]])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits for each position of the target."""
        padding = source == PAD
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return F.linear(hidden, self.embedding.weight)


def only_residual_dropout(transformer: nn.Transformer) -> None:
    """No dropout on attention weights and inside the feed-forward layer: as the paper, and the systems compared."""
    for module in transformer.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            module.dropout.p = 0.0


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    torch.set_num_threads(options["threads"])
    torch.manual_seed(options["seed"])
    pairs = Pairs(options["pairs"])
    batches = (sorted_pools if options["sorted"] else shuffled)(pairs, options["batch_tokens"], options["seed"])
    model = Model(options).train()
    adam = torch.optim.Adam(model.parameters(), lr=options["learning_rate"], betas=(0.9, 0.98), eps=1e-9, fused=True)

    def step() -> tuple[int, float]:
        indices = next(batches)
        source, target = pairs.tensor("source", indices), pairs.tensor("target", indices)
        logits = model(source, pairs.tensor("target", indices, begin=True))
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
