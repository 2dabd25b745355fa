"""What ran it: facts, instruction sets, noise, control probes."""
