"""Floor 6: how good a model is on pairs that it has not seen."""
