"""Helpers shared by the tests; holds no tests."""
