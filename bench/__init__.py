"""One script for each claim about speed or memory; each prints ratios measured side by side in one run."""
