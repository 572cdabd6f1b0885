"""The command line: option parsing, help, shell completion and error handling. Commands import the rest on demand."""
