"""Raw video or simulated scenes → clips with labels → questions, reasoning and overlays."""
