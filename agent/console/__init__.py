"""The console proxy: a guest's screen in a browser, bridged to the hypervisor's VNC.

`sessions`, `limits`, `targets`, `rfb`, `http`, `websocket` and `certificates` decide and do no
I/O; `channel`, `dial`, `bridge`, `worker` and `keeper` act.
"""
