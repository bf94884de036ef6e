"""Is a written file the model: parity, resident constants, layer by layer."""
