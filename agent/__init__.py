"""The agent: what a system VM runs to become what a document says, or to stay what it was."""

__version__ = "0.1.0"
