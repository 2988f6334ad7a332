"""Direct execution: guest code of CPL 3 as it is, in processes that map nothing but guest pages."""
