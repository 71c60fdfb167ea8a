"""From the words of a command line to a finished run: arguments, exits, execution, several seeds."""
