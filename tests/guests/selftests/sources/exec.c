#include "selftest.h"
int exec_mode(int count, char **arguments) { (void)count; (void)arguments; return 0; }
