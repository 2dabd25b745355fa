"""What is built once for a model: weights, reference outputs, artefacts, and the keys they are kept by."""
