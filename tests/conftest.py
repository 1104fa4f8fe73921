"""For all tests: every shape in a signature of qkv is checked when it is called."""

from jaxtyping import install_import_hook

install_import_hook("qkv", "beartype.beartype")
