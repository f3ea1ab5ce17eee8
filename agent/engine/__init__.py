"""From a document to a machine: compose what is wanted, plan the difference, do it or undo it."""
