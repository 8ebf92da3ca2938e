"""The `grail` command, one file a group. Imports torch only inside the commands that need it."""
