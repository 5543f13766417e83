"""Transforms, one per file; each file is a plug-in."""
