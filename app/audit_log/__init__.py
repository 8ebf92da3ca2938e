"""The audit log: numbers, proofs and signed checkpoints over the leaves of the audit trail."""
