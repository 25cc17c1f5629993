"""Reading video files: discovery, decoding, shots, letterboxing, spans."""
