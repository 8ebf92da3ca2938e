"""A frozen base with LoRA tensors on it."""
