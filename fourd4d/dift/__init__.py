"""Dynamic-Imagery Fine-Tuning, text and latents supervised together."""
