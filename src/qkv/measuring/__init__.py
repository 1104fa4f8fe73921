"""Floor 6: how fast a run is, on the paths that people use."""
