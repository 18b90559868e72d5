"""What an operator types on the server's machine; what a command needs is imported when it is run."""
