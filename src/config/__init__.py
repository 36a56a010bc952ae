"""A configuration from the command line to checked values, and to the objects that it names."""
