"""Evaluation reports: issued once per job under their digest; read as JSON, as one HTML file and as PDF."""
