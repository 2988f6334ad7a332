"""What the translator makes of guest code, for people: sources, a listing of it, its rendering."""
