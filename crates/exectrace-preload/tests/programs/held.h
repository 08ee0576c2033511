/* A second thread that is known to sleep before what it waits for happens. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int thread_id;

static int my_tid(void) { return (int)syscall(SYS_gettid); }

/* Until the thread is inside a system call and does not run, as the kernel says. */
static void await_sleep(void) {
    char path[64], text[512];
    while (!thread_id)
        usleep(100);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread_id);
    for (int i = 0, seen = 0; i < 20000 && seen < 5; i++) {
        int fd = open(path, O_RDONLY);
        long n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[n > 0 ? n : 0] = 0;
        char *state = strrchr(text, ')');
        seen = state && state[2] == 'S' ? seen + 1 : 0;
        usleep(200);
    }
    thread_id = 0;
}

static void say(const char *name, const void *p) {
    printf("%s %lu\n", name, (unsigned long)(uintptr_t)p);
}
