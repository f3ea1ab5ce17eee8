"""From a document to a machine: compose what is wanted, plan the difference, make it so or undo it."""
