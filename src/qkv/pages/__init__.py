"""Floor 1: the drawing kit: charts, heat maps, tables and pages from plain data; it knows nothing of models."""
