"""Floor 6: from pairs to weights."""
