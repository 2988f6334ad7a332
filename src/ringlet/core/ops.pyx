"""`Op`: the operations that translated code asks the virtual processor to perform."""
