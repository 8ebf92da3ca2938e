"""What became of a year's requests."""
