"""Floor 6: looking inside models and trainings, and showing what is there."""
