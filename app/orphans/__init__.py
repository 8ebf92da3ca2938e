"""Files that nobody names any more: what dead processes left behind."""
