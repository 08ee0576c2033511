/* Says what it was given, and whether anything of ours came with it. */
#include <stdio.h>
#include <stdlib.h>

int main(int n, char **arguments) {
    (void)arguments;
    const char *names[] = {"LD_PRELOAD", "EXECTRACE_PRELOAD_DIR", "EXECTRACE_PRELOAD_OPTIONS"};
    int ours = 0;
    for (int i = 0; i < 3; i++)
        ours += getenv(names[i]) != NULL;
    printf("arguments %d ours %d\n", n - 1, ours);
    return 3;
}
