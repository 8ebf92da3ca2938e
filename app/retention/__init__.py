"""What is kept for a time and then removed: events, deliveries, kept answers, faults of imports, erased works,
weights of superseded versions."""
