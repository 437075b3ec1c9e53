"""The command line's groups: what each is called, takes and prints; the work is done elsewhere."""
