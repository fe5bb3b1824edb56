"""Watching without a screen: hooks, webhook, MQTT."""
