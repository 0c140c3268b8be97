"""The moving parts: who receives, decides, records, calls and supervises. Rules live in `domain`."""
