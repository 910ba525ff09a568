"""Trunks and heads: loading, layouts, the forward every algorithm shares, micro-batches, saving."""
