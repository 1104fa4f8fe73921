"""For all tests: every shape in a signature of qkv is checked when it is called."""

from collections.abc import Iterator

import jaxtyping
import pytest

jaxtyping.install_import_hook("qkv", "beartype.beartype")


@pytest.fixture(scope="module")
def without_shape_checks() -> Iterator[None]:
    """They more than double the time of a training; tests of whole trainings do without, as their parts are tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
