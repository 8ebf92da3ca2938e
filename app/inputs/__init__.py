"""What a job needs to know, read in one place: its rows and its examples. Read only."""
