"""The service: rows, rules, signatures. It never imports torch."""
