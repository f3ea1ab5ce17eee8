"""Diagnostics: what an administrator may have this VM try, and what a bundle takes."""
