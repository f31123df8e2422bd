"""How a script starts and ends, and the flags that several share."""
