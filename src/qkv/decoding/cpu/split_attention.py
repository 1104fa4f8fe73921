"""Attention whose parts of a projection are linear maps of their own."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from qkv.nn.attention import MultiHeadAttention

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]  # from a weight (out_features, in_features) and a bias


class SplitAttention(MultiHeadAttention):
    """Attention whose projection is three maps: all of it, the queries, and keys with values.

    A map that is not a plain matrix cannot be cut into rows when a part of it is wanted.

    Args:
        attention: what it is made from; stays as it is.
        make: see `with_linear_maps`.
    """

    def __init__(self, attention: MultiHeadAttention, make: MakeLinear):
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(attention).items() if not name.startswith("_")})
        self.rotary = attention.rotary
        weight, bias, width = attention.projection.weight, attention.projection.bias, attention.d_model
        self.projection = make(weight, bias)  # type: ignore[assignment]
        self.query = make(weight[:width], None if bias is None else bias[:width])
        self.key_value = make(weight[width:], None if bias is None else bias[width:])
        self.output = make(attention.output.weight, attention.output.bias)  # type: ignore[assignment]

    def project_query(self, query: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch head query d_head"]:
        """See `MultiHeadAttention.project_query`."""
        return self._split(self.query(query))

    def project_key_value(
        self, key: Float[Tensor, "batch key d_model"], value: Float[Tensor, "batch key d_model"] | None = None
    ) -> tuple[Float[Tensor, "batch head key d_head"], Float[Tensor, "batch head key d_head"]]:
        """See `MultiHeadAttention.project_key_value`.

        Raises:
            ValueError: if the values are of another sequence than the keys.
        """
        if value is not None and value is not key:
            raise ValueError("this attention gathers the values that it has keys for")
        keys, values = self.key_value(key).chunk(2, dim=-1)
        return self._split(keys), self._split(values)
