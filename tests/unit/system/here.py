"""What tests of files need to know of the machine that they run on."""

import grp
import os
import pwd

# Whoever runs the tests, as `user:group`: only root may give files away.
OWNER = f"{pwd.getpwuid(os.getuid()).pw_name}:{grp.getgrgid(os.getgid()).gr_name}"
