"""How commands start and end, and the flags that several of them share."""
