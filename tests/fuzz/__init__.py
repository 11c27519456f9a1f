"""Fuzzing of everything that reads what others wrote (docs/faults.md)."""
