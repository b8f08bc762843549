"""What automata hold and why they fire or do not, in words: for people who look at a log."""
