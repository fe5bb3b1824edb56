"""One gallery for many doors: every door keeps its own sealed copy, a PostgreSQL server carries the changes."""
