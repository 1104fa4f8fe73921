"""Floor 7: serving, a model behind HTTP on this machine."""
