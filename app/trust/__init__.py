"""Pure building blocks of evidence: bytes in, bytes or an exception out. Imports nothing of ours."""
