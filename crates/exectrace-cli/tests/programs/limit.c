/* Sets a limit of 80 KiB to the files of its parent, the recording command, and then has more to be
 * recorded than that. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

int main(void) {
    struct rlimit small = {81920, 81920};
    printf("limit %d\n", prlimit(getppid(), RLIMIT_FSIZE, &small, NULL));
    for (int i = 0; i < 20000; i++)
        usleep(1);
    puts("ran");
    return 3;
}
