"""Folders of labelled pictures: reading, checking, augmenting."""
