"""Where models go and where they come from, by name. Other packages add targets as `qkv.exports`.

torch.nn's modules are no target: they are objects, not files; see `qkv.interchange.torch_modules`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from qkv.registry import Registry

if TYPE_CHECKING:
    from qkv.interchange.target import Target
    from qkv.nn.transformer import Transformer

EXPORTS: "Registry[Target]" = Registry(
    "export",
    {"ctranslate2": "qkv.interchange.ctranslate2:CTRANSLATE2", "marian": "qkv.interchange.marian:MARIAN"},
)
IMPORTS: "Registry[Callable[[str], Transformer]]" = Registry(
    "import", {"marian": "qkv.interchange.marian:import_marian"}
)
