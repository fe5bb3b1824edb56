"""The terminal app: messages, widgets, screens. No inference, no files."""
