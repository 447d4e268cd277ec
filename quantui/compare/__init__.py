"""The original and the result, measured side by side."""
