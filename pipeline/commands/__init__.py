"""What each command does once its options are parsed: checks first, then work."""
