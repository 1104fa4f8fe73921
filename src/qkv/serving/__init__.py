"""Floor 3: serving, a model behind HTTP on this machine."""
