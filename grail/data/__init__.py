"""From examples to token ids and micro-batches."""
