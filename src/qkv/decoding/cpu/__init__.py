"""What makes a finished model fast on a CPU. nn/ knows nothing of it."""
