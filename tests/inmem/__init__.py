"""Whole services in memory, truthful but small: real statements, signatures and Merkle trees.

Each class has the methods of a generated stub, and may stand in its place.
"""
