"""Telling others what happened: signed, until they have it, and never at an address of our own network."""
