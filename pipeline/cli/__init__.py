"""The command line: the table of commands, options from classes of options, help, completion and error handling."""
