"""The rules of Leadline: what a message means and what follows from it.

Pure: standard library and msgspec only. No clock, no random ids, no I/O, no threads; `now` and ids
come in as arguments. Nothing in here imports `actors`, `projections` or `runner`.
"""
