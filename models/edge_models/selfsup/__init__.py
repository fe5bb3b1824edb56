"""Learning from pictures without labels."""
