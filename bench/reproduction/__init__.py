"""What bench/paper.py is made of: data, rows, runs, tables and figures of the reproduction."""
