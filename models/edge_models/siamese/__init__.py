"""Fine-tuning an embedder and judging it."""
