"""Measurements: `make bench`. They print ratios against the bare tools; they are not tests."""
