"""Rates: how many calls a key, or an address without one, may make in a window."""
