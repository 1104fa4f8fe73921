"""What searches and scores: the contract, torch, CTranslate2."""

PRECISIONS = ("float32", "bf16", "fp16", "int8")
"""What `decoding.precision` may say; each engine has some of them."""
