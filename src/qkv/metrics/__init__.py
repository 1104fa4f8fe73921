"""Floor 1: how good outputs are: strings in, a score out."""
