"""The data folder, settings, private files, hashes, the log and threads."""
