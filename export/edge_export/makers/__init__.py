"""One maker per kind of model that can be exported."""
