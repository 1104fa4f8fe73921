"""qkv: train, explain and ship encoder–decoder models, from a file of pairs to a served model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qkv.comparison.compare import compare
    from qkv.errors import UserError
    from qkv.experiment.experiment import train
    from qkv.inspection.attention_maps import Inspection, attention_maps
    from qkv.inspection.shapes import shapes
    from qkv.nn import Transformer, TransformerConfig, attention
    from qkv.translator import Translator, load

_HOMES = {
    "Transformer": "qkv.nn",
    "TransformerConfig": "qkv.nn",
    "attention": "qkv.nn",
    "attention_maps": "qkv.inspection.attention_maps",
    "compare": "qkv.comparison.compare",
    "Inspection": "qkv.inspection.attention_maps",
    "shapes": "qkv.inspection.shapes",
    "train": "qkv.experiment.experiment",
    "load": "qkv.translator",
    "Translator": "qkv.translator",
    "UserError": "qkv.errors",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'qkv' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
