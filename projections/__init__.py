"""What is read: views, metrics and queries, all folded from the events and from nothing else."""
