"""Objectives on forget examples. Each owns its sign."""
