"""Floor 7: training as a user starts it, and the report of the run."""
