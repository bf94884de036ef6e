"""How the constants of the cost model were fitted, from published times of known networks."""
