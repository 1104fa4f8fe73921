"""Floor 3: models of other libraries, in and out."""
