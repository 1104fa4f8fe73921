"""Floor 2: from pairs to weights."""
