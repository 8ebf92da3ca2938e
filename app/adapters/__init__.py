"""Adapter versions."""
