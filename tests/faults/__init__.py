"""Attacks on running services, and the one invariant that must hold after each (docs/faults.md)."""
