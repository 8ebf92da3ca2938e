"""Served models: a base, an adapter alias, a policy."""
