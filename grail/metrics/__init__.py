"""What is measured, one example at a time, and how means and intervals are made of it (algorithm section 6)."""
