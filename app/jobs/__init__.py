"""Jobs: the computation of a batch, from the claim by a worker to the verdict's consequences."""
