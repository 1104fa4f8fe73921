"""Floor 6: the command line. A verb is one small file that parses, calls one function and prints."""
