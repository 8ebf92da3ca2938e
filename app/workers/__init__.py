"""Workers that compute jobs: they say that they are there, and how much memory they have."""
