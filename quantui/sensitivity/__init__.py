"""Which layers hurt: scores of every layer under every scheme, and the choice made from them."""
