"""The tools outside the VM: they build the template, boot it in a lab and drive it."""
