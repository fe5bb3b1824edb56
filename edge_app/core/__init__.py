"""The nouns, the model card and the errors; imports numpy only."""
