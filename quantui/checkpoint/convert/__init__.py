"""Checkpoints in the layout of their authors, made into folders that transformers opens without remote code."""
