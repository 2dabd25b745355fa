"""What is made of a model, once: weights, reference outputs, artefacts, and the keys they are kept by."""
