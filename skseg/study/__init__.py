"""Studies: many runs of one config, and what can be concluded from them."""
