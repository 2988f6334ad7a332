/* Prints what each port that is given reads, a byte: `port 1540 45060`. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int count, char **words)
{
    if (iopl(3))
        return 1;
    for (int i = 1; i < count; i++)
        printf("%02x ", inb(atoi(words[i])));
    puts("");
    return 0;
}
