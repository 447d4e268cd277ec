"""A model folder as it stands on disk: read without torch."""
