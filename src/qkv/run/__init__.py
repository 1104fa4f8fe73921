"""Floor 4: a run's directory: its configuration, prepared data and checkpoints."""
