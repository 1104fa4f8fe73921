"""Floor 7: variants of one recipe side by side, trained and measured under the same conditions."""
