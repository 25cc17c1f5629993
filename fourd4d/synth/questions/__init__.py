"""Questions about a clip: rules, answer pools, wordings, reasoning."""
