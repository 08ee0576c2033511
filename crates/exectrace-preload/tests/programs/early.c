/* A library whose start uses locks, files and threads before the preloaded library has begun, and
 * a program with an allocator of its own, which locks, and ends the process when it is entered
 * again from inside. Then the program closes all descriptors and unshares, as daemons do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef LIBRARY
int early_result;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *run(void *p) { return usleep(1000), p; }
__attribute__((constructor)) static void early(void) {
    char text[16];
    pthread_t t;
    void *value = NULL;
    sem_t sem;
    pthread_mutex_lock(&mutex);
    int fd = open("/proc/self/stat", O_RDONLY);
    early_result = fd >= 0 && read(fd, text, 4) == 4 && close(fd) == 0;
    pthread_mutex_unlock(&mutex);
    sem_init(&sem, 0, 1);
    early_result += sem_wait(&sem) == 0;
    early_result += pthread_create(&t, NULL, run, &sem) == 0;
    early_result += pthread_join(t, &value) == 0 && value == &sem;
    early_result += dlsym(RTLD_DEFAULT, "pthread_cond_wait") != NULL;
}
#else
extern int early_result;
static char memory[64 << 20] __attribute__((aligned(64)));
static size_t used;
static pthread_mutex_t of_memory = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside __attribute__((tls_model("initial-exec")));
static int allocations;

void *malloc(size_t n) {
    if (inside++) {
        write(2, "again\n", 6);
        _exit(99);
    }
    pthread_mutex_lock(&of_memory);
    size_t *at = (size_t *)(memory + used);
    used += (n + 79) / 64 * 64;
    allocations++;
    pthread_mutex_unlock(&of_memory);
    inside--;
    if (used > sizeof memory)
        return NULL;
    *at = n;
    return (char *)at + 16;
}
void free(void *p) { (void)p; }
void *calloc(size_t n, size_t m) { return malloc(n * m); }
void *realloc(void *p, size_t n) {
    void *to = malloc(n);
    if (p && to)
        memcpy(to, p, ((size_t *)((char *)p - 16))[0] < n ? ((size_t *)((char *)p - 16))[0] : n);
    return to;
}
void *memalign(size_t a, size_t n) {
    uintptr_t at = (uintptr_t)malloc(n + a + 16) + a - 1;
    at -= at % a;
    return (void *)at;
}
int posix_memalign(void **p, size_t a, size_t n) { return *p = memalign(a, n), !*p; }
void *aligned_alloc(size_t a, size_t n) { return memalign(a, n); }

static void *run(void *p) {
    for (int i = 0; i < 1000; i++)
        free(malloc(64));
    return p;
}

int main(void) {
    pthread_t t[3];
    printf("early %d\n", early_result);
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, run, NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    printf("allocated %d\n", allocations > 3000);
    int extra = 0;
    for (int fd = 3; fd < 64; fd++)
        extra += fcntl(fd, F_GETFD) >= 0;
    printf("open %d\n", extra);
    printf("close_range %d\n", close_range(3, ~0U, 0));
    printf("unshare %d\n", unshare(CLONE_NEWUSER) == 0 || errno != EINVAL);
    sigset_t set;
    int signal = 0;
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
    printf("sigwait %d", sigwait(&set, &signal));
    printf(" %d\n", signal);
    fflush(stdout);
    pthread_mutex_lock(&of_memory);
    pthread_mutex_unlock(&of_memory);
    usleep(6000);
    return 0;
}
#endif
