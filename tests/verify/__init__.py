"""The verification runner: a seeded workload against real processes, faults while it runs, invariants checked.

`python -m tests.verify --seed N --minutes M --faults a,b,c`, or `make verify`. A program, not a test:
`tests/system/test_verify.py` runs a few fixed seeds of it.
"""
