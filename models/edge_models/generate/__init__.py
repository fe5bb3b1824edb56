"""Pictures that nobody took: composed, drawn, sampled, translated; each marked as made."""
