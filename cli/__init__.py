"""The command line: asks, commands and starts. What is done stands elsewhere; here it is called and shown."""
