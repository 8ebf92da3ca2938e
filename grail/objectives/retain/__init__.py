"""Objectives on retain examples."""
