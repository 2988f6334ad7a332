"""Shows the translation of guest code: reads the code, lists its translation, renders the list."""
