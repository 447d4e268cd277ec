"""Tiny models made in code, for tests that need real ones."""
