"""The manager: which console proxy a session goes to, and which VMs there are.

It stands outside the VMs and configures nothing in them: it hands documents and sessions to their
agents, and remembers. What it remembers is in a database (SQLite, or PostgreSQL where several
managers run); a manager's process holds nothing that is lost when it dies.
"""
