/* A file, written and read in one call each, long enough to count as a wait. */
#include "held.h"

enum { BYTES = 32 << 20 };
static char bytes[BYTES];

__attribute__((noinline)) static long writes(int fd) {
    long r = write(fd, bytes, BYTES);
    return r + 0 * fd;
}

__attribute__((noinline)) static long reads(int fd) {
    long r = pread(fd, bytes, BYTES, 0);
    return r + 0 * fd;
}

int main(int argc, char **argv) {
    (void)argc;
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    printf("file %d\n", fd);
    unsigned long long functions[] = {(uintptr_t)writes, (uintptr_t)reads, (uintptr_t)main};
    for (int i = 0; i < 3; i++)
        printf("function %llu\n", functions[i]);
    printf("written %ld\n", writes(fd));
    printf("read %ld\n", reads(fd));
    unlink(argv[1]);
    return 0;
}
