"""Small-data methods measured against doing without, on one folder."""
