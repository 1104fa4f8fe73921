"""The engines by name: what `decoding.engine` may say. Nothing heavy is imported before one is opened."""

from typing import TYPE_CHECKING

from qkv.registry import Registry

if TYPE_CHECKING:
    from qkv.decoding.engines.contract import EngineKind

ENGINES: "Registry[EngineKind]" = Registry(
    "engine",
    {
        "auto": "qkv.decoding.engines.automatic:AUTO",
        "torch": "qkv.decoding.engines.torch_engine:TORCH",
        "ctranslate2": "qkv.decoding.engines.ctranslate2_cache:CTRANSLATE2",
    },
)
