"""The systems outside, one kind a file. What may not live here: when to call, and what follows (the saga's)."""
