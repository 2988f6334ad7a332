/* The agent's beginning where there is a C library, for the build with sanitizers. */
#include "agent.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0"; /* the agent leaves without the library's exit */
}

int main(int count, char **arguments, char **variables)
{
    return agent_main(count, arguments, variables);
}
