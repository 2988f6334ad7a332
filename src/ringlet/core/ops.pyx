"""`Op`: the operations that the virtual processor performs for translated code."""
