/* Twenty functions deep into a wait, by every shape of frame that a compiler makes, in code without
 * frame pointers. Prints where each function begins, innermost first, and the objects of the waits:
 * of the first thread, of a second one, and of a signal handler. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "soon.h"

#define APART __attribute__((noinline, noclone, noipa))

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond[3];
static volatile int which, sink;

/* Keeps every register busy across the call. */
#define CALL(next) \
    long a = n * 3, b = n ^ 5, c = n + 7, d = n - 9, e = n * n, g = n + (n << 3); \
    sink += n; \
    long r = next(n + 1); \
    sink += (int)(a + b + c + d + e + g); \
    return r + a * b + c * d + e * g;
#define PLAIN(name, next) APART long name(long n) { CALL(next) }
/* A tail stays a call. */
#define SMALL(name, next) APART long name(long n) { long r = next(n); sink++; return r; }
#define LARGE(name, next, bytes) \
    APART long name(long n) { volatile char room[bytes]; room[n % bytes] = 1; sink += room[1]; CALL(next) }
/* These two need a register for the frame whatever the compiler is told. */
#define SIZED(name, next) \
    APART long name(long n) { char *room = alloca(n * 16 + 16); memset(room, 1, n); \
        sink += room[n / 2]; CALL(next) }
#define ALIGNED(name, next) \
    APART long name(long n) { volatile char room[64] __attribute__((aligned(128))); \
        room[n % 64] = 1; sink += (int)((uintptr_t)room & 127); CALL(next) }

/* Nobody signals: it waits for a millisecond. */
APART long level_00(long n) {
    struct timespec t = soon();
    pthread_mutex_lock(&mutex);
    int r = pthread_cond_timedwait(&cond[which], &mutex, &t);
    pthread_mutex_unlock(&mutex);
    return r + n;
}
PLAIN(level_01, level_00)
SMALL(level_02, level_01)
LARGE(level_03, level_02, 200)
SIZED(level_04, level_03)
SMALL(level_05, level_04)
ALIGNED(level_06, level_05)
PLAIN(level_07, level_06)
LARGE(level_08, level_07, 40000)
/* libc calls this one. */
APART int level_09(const void *one, const void *other) {
    sink += (int)level_08(3);
    return *(const int *)one - *(const int *)other;
}
APART long level_10(long n) {
    int some[2] = {(int)n, 1};
    qsort(some, 2, sizeof *some, level_09);
    return some[0];
}
SMALL(level_11, level_10)
ALIGNED(level_12, level_11)
SIZED(level_13, level_12)
SIZED(level_14, level_13)
PLAIN(level_15, level_14)
ALIGNED(level_16, level_15)
LARGE(level_17, level_16, 8)
PLAIN(level_18, level_17)
SMALL(level_19, level_18)
APART void *level_20(void *n) {
    long r = level_19((long)n);
    sink++;
    return (void *)r;
}

APART void on_trap(int signal) { sink += signal + (int)level_00(1); }
#ifdef __x86_64__
#define TRAP __asm__ volatile("int3")
#else
#define TRAP raise(SIGTRAP)
#endif
/* Interrupted between two of its instructions, with a number pushed that no other function has. */
APART long trapped_00(long n) {
    volatile char room[24];
    room[n % 24] = 1;
    TRAP;
    return room[1] + n;
}
PLAIN(trapped_01, trapped_00)
SIZED(trapped_02, trapped_01)

int main(void) {
    void *all[] = {level_00, level_01, level_02, level_03, level_04, level_05, level_06, level_07,
        level_08, level_09, level_10, level_11, level_12, level_13, level_14, level_15, level_16,
        level_17, level_18, level_19, level_20, on_trap, trapped_00, trapped_01, trapped_02, main};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        printf("function %lu\n", (unsigned long)(uintptr_t)all[i]);
    for (int i = 0; i < 3; i++)
        pthread_cond_init(&cond[i], NULL), printf("cond %lu\n", (unsigned long)(uintptr_t)&cond[i]);
    level_20((void *)3);
    which = 1;
    pthread_t thread;
    pthread_create(&thread, NULL, level_20, (void *)3);
    pthread_join(thread, NULL);
    which = 2;
    signal(SIGTRAP, on_trap);
    sink += (int)trapped_02(3);
    return 3;
}
