"""What other programs read: each format in its own module, reading and writing the same nouns, one layer at a time."""
