"""Checks against real accounts, run by name; holds no tests."""
