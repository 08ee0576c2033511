/* Futex calls through libc's `syscall` whose number, results and errors are known: printed, and
 * looked for in the trace. All six arguments matter. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint32_t word, other;

static void show(const char *what, long r) { printf("%s %ld %d\n", what, r, r < 0 ? errno : 0); }

static void *sleeper(void *p) {
    (void)p;
    while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) == 7)
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, NULL, NULL, 0);
    return (void *)5;
}

int main(void) {
    struct timespec ms = {0, 1000000};
    printf("word %lu\n", (unsigned long)(uintptr_t)&word);
    errno = 77;
    show("changed", syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0));
    show("timed", syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ms, NULL, 0));
    /* The sixth argument: no bits are refused, and with bits the time is absolute, long over. */
    show("none", syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &ms, NULL, 0));
    show("bits", syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &ms, NULL, -1));
    show("nobody", syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    show("requeue", syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1L, &other, 9));
    /* A call of six arguments that is none of a futex. */
    char *m = (char *)syscall(SYS_mmap, 0L, 4096L, (long)(PROT_READ | PROT_WRITE),
                              (long)(MAP_PRIVATE | MAP_ANONYMOUS), -1L, 0L);
    m[4095] = 1;
    show("unmap", syscall(SYS_munmap, m, 4096L));
    show("wrong", syscall(SYS_close, -1));
    errno = 77;
    syscall(SYS_getpid);
    printf("errno %d\n", errno);
    __atomic_store_n(&word, 7, __ATOMIC_RELEASE);
    pthread_t t;
    void *value = NULL;
    pthread_create(&t, NULL, sleeper, NULL);
    usleep(20000);
    __atomic_store_n(&word, 8, __ATOMIC_RELEASE);
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    printf("join %d\n", pthread_join(t, &value));
    printf("value %ld\n", (long)value);
    printf("entry %lu\n", (unsigned long)(uintptr_t)&sleeper);
    return 3;
}
