/* A library that is loaded while the program runs, and waits: with PLUGIN it is that library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#ifdef PLUGIN
__attribute__((noinline)) int plugin_waits(void) {
    struct timespec t = {0, 2000000};
    return nanosleep(&t, NULL) + 11;
}
#else
int main(int argc, char **argv) {
    int (*waits)(void);
    (void)argc;
    printf("missing %d\n", dlopen("/no/such.so", RTLD_NOW) == NULL);
    printf("says %d\n", dlerror() != NULL);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    waits = (int (*)(void))dlsym(library, "plugin_waits");
    printf("waits %d\n", waits());
    printf("local %d\n", dlsym(RTLD_DEFAULT, "plugin_waits") == NULL);
    printf("close %d\n", dlclose(library));
    return 0;
}
#endif
