"""Certificates of erasure: one for each request that is done, issued once."""
