"""Measuring policies and reward models, with intervals. Results are plain records with `as_dict()` for JSON."""
