"""The command line. A verb is one small module that parses, calls one function and prints."""
