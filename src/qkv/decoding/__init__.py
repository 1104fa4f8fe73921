"""Floor 2: decoding, from a model to the outputs it finds most probable. `search.py` is the way in."""
