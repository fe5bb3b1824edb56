"""The worker, its commands and updates, tracking, identity over time, events."""
