"""Direct execution, as the run loop sees it: guest code of CPL 3 in processes of its own."""
