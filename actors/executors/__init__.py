"""Executors, one a file. Add an action: add a file here with an `EXECUTOR`, and nothing else."""
