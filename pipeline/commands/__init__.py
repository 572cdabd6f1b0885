"""The commands. Each is one function: its signature has the options, its body checks them first, then works."""
