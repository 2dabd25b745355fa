"""How a case is sampled: clean processes, slices in turn, and a rule for when to stop."""
