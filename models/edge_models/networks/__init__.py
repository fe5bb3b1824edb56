"""The networks in torch and where their weights come from."""
