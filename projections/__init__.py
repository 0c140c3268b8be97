"""The views: what analysts, operators and the command line ask, folded from the events and from nothing else.

Delete all of it and a replay gives the same rows back. Nothing in here imports `actors` or `runner`;
the store's events come through `domain.ports.EventLog`.
"""
