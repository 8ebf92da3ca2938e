"""Bundles of reports for auditors, and signed statements about adapter versions."""
