"""qkv: train, explain and ship encoder–decoder models, from a file of pairs to a served model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qkv.errors import UserError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qkv.comparison.compare import compare
    from qkv.experiment.experiment import train
    from qkv.inspection.attention_maps import Inspection, attention_maps
    from qkv.inspection.shapes import shapes
    from qkv.loading import load
    from qkv.nn import Transformer, TransformerConfig, attention
    from qkv.translator import Translator

_HOMES = {
    "qkv.comparison.compare": ["compare"],
    "qkv.experiment.experiment": ["train"],
    "qkv.inspection.attention_maps": ["Inspection", "attention_maps"],
    "qkv.inspection.shapes": ["shapes"],
    "qkv.nn": ["Transformer", "TransformerConfig", "attention"],
    "qkv.loading": ["load"],
    "qkv.translator": ["Translator"],
}

__all__ = [
    "Inspection",
    "Transformer",
    "TransformerConfig",
    "Translator",
    "UserError",
    "__version__",
    "attention",
    "attention_maps",
    "compare",
    "load",
    "shapes",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import qkv` itself does no work (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'qkv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
