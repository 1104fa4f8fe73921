"""Floor 7: how data is drawn: charts, tables, pages."""
