"""Whether the harness can be believed on this machine: known truths, measured again and again."""
