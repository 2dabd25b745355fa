"""Records of cases: what is saved and when, how it is read back and compared."""
