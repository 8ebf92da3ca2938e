"""GRAIL: gradient-based localisation and masked unlearning. Tensors in, tensors and numbers out."""
