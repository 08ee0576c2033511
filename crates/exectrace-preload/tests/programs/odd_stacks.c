/* Waits from stacks that are out of the ordinary, in code without frame pointers: below code that a
 * program made itself, on a coroutine's stack, in a library that was loaded late (named by the first
 * argument), deeper than any trace keeps, and in a forked child. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "soon.h"

#define APART __attribute__((noinline, noclone, noipa))

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond[5];
static volatile int which, sink;

APART void waits(void) {
    struct timespec t = soon();
    pthread_mutex_lock(&mutex);
    sink += pthread_cond_timedwait(&cond[which], &mutex, &t);
    pthread_mutex_unlock(&mutex);
}

/* Keeps the register of frame pointers busy with a number that is none. */
APART void caller(void (*f)(void)) {
    long a = sink * 3, b = sink ^ 5, c = sink + 7, d = sink - 9, e = sink * sink, g = sink << 3;
    f();
    sink += (int)(a + b * c + d * e + g);
}

APART void made_code(void) {
#ifdef __x86_64__
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    int all = PROT_READ | PROT_WRITE | PROT_EXEC;
    void *at = mmap(NULL, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, code, sizeof code);
    printf("code %lu\n", (unsigned long)(uintptr_t)at);
    ((void (*)(void (*)(void)))at)(waits);
    sink++;
#else
    waits();
#endif
}

static ucontext_t first, other;
APART void coroutine(void) { caller(waits); }

APART long deep(long n) {
    if (n == 0)
        caller(waits);
    else
        sink += (int)deep(n - 1);
    return sink;
}

int main(int n, char **arguments) {
    void *all[] = {waits, caller, made_code, coroutine, deep, main};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        printf("function %lu\n", (unsigned long)(uintptr_t)all[i]);
    for (int i = 0; i < 5; i++)
        pthread_cond_init(&cond[i], NULL), printf("cond %lu\n", (unsigned long)(uintptr_t)&cond[i]);
    made_code();

    which = 1;
    getcontext(&other);
    other.uc_stack.ss_sp = malloc(1 << 18), other.uc_stack.ss_size = 1 << 18;
    other.uc_link = &first;
    makecontext(&other, coroutine, 0);
    swapcontext(&first, &other);

    which = 2;
    void *library = n > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    void (*late)(void (*)(void)) = library ? (void (*)(void (*)(void)))dlsym(library, "late") : NULL;
    printf("late %lu\n", (unsigned long)(uintptr_t)late);
    if (late)
        late(waits);

    which = 3;
    sink += (int)deep(300);

    which = 4;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        caller(waits), _exit(0);
    waitpid(child, NULL, 0);
    return 0;
}
