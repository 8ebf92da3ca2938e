"""Where in the adapter a set's knowledge sits (algorithm sections 2 and 3)."""
