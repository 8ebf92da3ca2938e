"""Requests in the form that privacy platforms speak: OpenDSR 2.0 (formerly OpenGDPR), erasure only."""
