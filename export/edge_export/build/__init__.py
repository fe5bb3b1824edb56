"""Builds of one model: fp32, lower precisions, their report."""
