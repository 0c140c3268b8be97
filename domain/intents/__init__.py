"""Intent handlers, one a file. Add an intent: add a file here with a `HANDLER`, and nothing else."""
