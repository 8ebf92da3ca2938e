"""Bulk imports: a file of requests, taken whole or as far as its rows are right."""
