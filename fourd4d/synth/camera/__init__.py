"""Camera motion of a span: point tracks, poses, motion labels."""
