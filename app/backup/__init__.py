"""What of a backup the service itself has to know: which files its rows need, and whether they are there."""
