"""Which axis is which: sizes alone do not say, as 4 may be heads or tokens, and 256 d_ff or 2 · d_model.

A twin of the model, of the same architecture, options and depth but with sizes that are all different, runs the same
code. Whatever has 138 channels there is d_model, whatever has 19 tokens is the source: no table of names is written by
hand for any layer.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from qkv.inspection.trace import Shape, Trace, trace
from qkv.nn.seq2seq import Seq2Seq

_BATCH, _SOURCE, _TARGET = 17, 19, 29
_LENGTHS = {"source": _SOURCE, "target": _TARGET}
_HEADS, _D_HEAD = 3, 46
_SIZES = {"d_model": _HEADS * _D_HEAD, "num_heads": _HEADS, "d_ff": 151, "vocab_size": 211, "target_vocab_size": 223}
_MOST_MULTIPLES = 64
_MULTIPLIED = ("d_model", "d_ff", "vocab", "target vocab", "d_head")


class Axes:
    """The names of a twin's sizes, to be read beside the sizes of the model itself.

    Args:
        model: any that keeps the contract of `qkv.nn.seq2seq` and has its configuration in `config`.
    """

    def __init__(self, model: Seq2Seq):
        config = _twin_config(model.config)
        generator = torch.random.get_rng_state()
        twin = type(model)(config)
        torch.random.set_rng_state(generator)
        self._names = _names(config)
        self._widths = _widths(config)
        self.twin: Trace = trace(
            twin, torch.zeros(_BATCH, _SOURCE, dtype=torch.long), torch.zeros(_BATCH, _TARGET, dtype=torch.long)
        )

    def of(self, twin: Shape, real: Shape) -> tuple[str, ...]:
        """A name for each axis; where there is none, its size stands for it."""
        return tuple(self.name(size) or str(own) for size, own in zip(twin, real, strict=True))

    def name(self, size: int) -> str | None:
        """What has this size in the twin: source, d_model, 3·d_model, batch·target, source+2, …"""
        return self._names.get(size) or next(self._composed(size), None)

    def _composed(self, size: int) -> Iterator[str]:
        for known, name in self._names.items():
            if name in _MULTIPLIED and size % known == 0 and size // known <= _MOST_MULTIPLES:
                yield f"{size // known}·{name}"
        for length, tokens in _LENGTHS.items():
            if size == _BATCH * tokens:
                yield f"batch·{length}"
            if 0 < size - tokens < _TARGET - _SOURCE:
                yield f"{length}+{size - tokens}"

    def factor(self, twin: float, real: float, config: Any) -> str:
        """A factor as a root of a size, if it is one in the model and in the twin; else as a number."""
        for name, width in _widths(config).items():
            for text, power in ((f"√{name}", 0.5), (f"1/√{name}", -0.5)):
                if math.isclose(real, width**power) and math.isclose(twin, self._widths[name] ** power):
                    return text
        roots = (f"√{length}" for length, tokens in _LENGTHS.items() if math.isclose(twin, math.sqrt(tokens)))
        return next(roots, f"{real:.4g}")


def _twin_config(config: Any) -> Any:
    """The same options, other sizes; a vocabulary that is shared by both sides stays so."""
    known = {part.name for part in fields(config)}
    changes: dict[str, Any] = {name: size for name, size in _SIZES.items() if name in known}
    if config.tie == "all" or config.target_vocab_size is None:
        changes["target_vocab_size"] = None
    if "max_length" in known:
        changes["max_length"] = 2 * _TARGET
    return replace(config, **changes)


def _names(config: Any) -> Mapping[int, str]:
    names = {config.d_model: "d_model", config.d_model // 2: "d_model/2"}
    if hasattr(config, "d_ff"):
        names[config.d_ff] = "d_ff"
    names[config.vocab_size] = "vocab"
    if config.target_vocab_size is not None:
        names[config.target_vocab_size] = "target vocab"
    if hasattr(config, "num_heads"):
        d_head = config.d_model // config.num_heads
        names |= {config.num_heads: "head", d_head: "d_head", d_head // 2: "d_head/2"}
    return names | {tokens: length for length, tokens in _LENGTHS.items()} | {_BATCH: "batch"}


def _widths(config: Any) -> dict[str, int]:
    return {"d_model": config.d_model, "d_head": config.d_model // getattr(config, "num_heads", 1)}
