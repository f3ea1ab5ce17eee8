"""The VM watches itself: daemons, resources, health checks, and the events that tell of them.

Three questions are asked of a service and never mixed: is it *alive* (systemd, and a pidfd), is it
*ready* (it answers what a client would ask), is it *correct* (it runs what the document says). Only
the first two may restart something.
"""
