"""`sysvm cert`: certificates of the console proxy, made, checked, and their names asked of DNS."""
