"""RFB, the protocol of VNC (RFC 6143 and the community's additions to it), without any I/O."""
