"""Builds the template: the root file system that the lab boots and the image contains."""
