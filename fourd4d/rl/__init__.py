"""4D Reinforcement Learning, a group-relative policy gradient on text tokens."""
