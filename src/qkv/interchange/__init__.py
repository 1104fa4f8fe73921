"""Models for other programs, each checked, and models from them. Other packages add targets as `qkv.exports`.

torch.nn's modules are no target: they are objects, not files; see `qkv.interchange.torch_modules`.
"""

from typing import TYPE_CHECKING

from qkv.registry import Registry

if TYPE_CHECKING:
    from qkv.interchange.target import Target

_OWN = {"ctranslate2": "qkv.interchange.ctranslate2:CTRANSLATE2", "marian": "qkv.interchange.marian:MARIAN"}
EXPORTS: "Registry[Target]" = Registry("export", _OWN)
