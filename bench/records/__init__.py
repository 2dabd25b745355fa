"""What is kept of a case, when, how it is read back and held beside others."""
