"""Answers that are kept under the caller's Idempotency-Key."""
