"""How a case is sampled: clean processes, slices in turn, and when it is enough."""
