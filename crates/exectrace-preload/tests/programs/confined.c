/* Programs with little room or few rights, by the first argument. Each says what it did; the same
 * with the library and without it. */
#include "held.h"
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static int pipes[2];
static volatile long total;

/* Locks, sleeps, reads and writes. */
static void work(int i) {
    char byte = 0;
    pthread_mutex_lock(&mutex);
    usleep(i % 3 * 50);
    total++;
    pthread_mutex_unlock(&mutex);
    total += write(pipes[1], &byte, 1) + read(pipes[0], &byte, 1);
}

static void *worker(void *p) {
    for (int i = 0; i < 20; i++)
        work(i);
    return p;
}

/* Threads with the smallest stack that libc allows, and one of 32 KiB. */
static void small_stacks(void) {
    pthread_t t[8];
    for (int i = 0; i < 8; i++) {
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, i % 2 ? 32768 : PTHREAD_STACK_MIN);
        if (pthread_create(&t[i], &attr, worker, NULL))
            printf("none\n");
    }
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
}

static void handler(int s) { (void)s, work(1); }

/* A handler on a stack of its own, of the size that was enough for long. */
static void alternate_stack(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    size_t size = (size_t)sysconf(_SC_MINSIGSTKSZ);
    stack_t stack = {.ss_size = size < 8192 ? 8192 : size};
    stack.ss_sp = mmap(NULL, stack.ss_size + 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(stack.ss_sp, 4096, PROT_NONE);
    stack.ss_sp = (char *)stack.ss_sp + 4096;
    printf("stack %d\n", sigaltstack(&stack, NULL));
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 20; i++)
        raise(SIGUSR1);
}

static void *arrive(void *p) {
    pthread_barrier_wait(&barrier);
    return p;
}

/* As many threads at a time as the library knows, and more. */
static void many_threads(void) {
    enum { MANY = 4000 };
    static pthread_t t[MANY];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536);
    int made = 0;
    pthread_barrier_init(&barrier, NULL, MANY + 1);
    for (; made < MANY; made++)
        if (pthread_create(&t[made], &attr, arrive, NULL))
            break;
    printf("threads %d\n", made);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < made; i++)
        pthread_join(t[i], NULL);
}

/* Nothing but what it needs itself: whatever else it calls kills it. */
static sem_t go;

static void *later(void *p) {
    sem_wait(&go);
    return worker(p);
}

static void few_calls(int by_number) {
    pthread_t waiting;
    sem_init(&go, 0, 0);
    pthread_create(&waiting, NULL, later, NULL);

    static const int allowed[] = {
        SYS_read,       SYS_write,        SYS_futex,         SYS_clock_nanosleep, SYS_nanosleep,
        SYS_exit,       SYS_exit_group,   SYS_rt_sigreturn,  SYS_rt_sigprocmask,  SYS_munmap,
        SYS_madvise,    SYS_newfstatat,   SYS_gettid,        SYS_getpid,
    };
    enum { N = sizeof allowed / sizeof *allowed };
    static struct sock_filter code[N + 4];
    code[0] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < N; i++)
        code[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
                                                   (unsigned char)(N - i), 0);
    code[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {N + 3, code};
    worker(NULL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (by_number)
        printf("filter %ld\n", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    else
        printf("filter %d\n", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    worker(NULL);
    sem_post(&go);
    pthread_join(waiting, NULL);
}

static void limited(int resource, rlim_t most) {
    struct rlimit limit = {most, most};
    setrlimit(resource, &limit);
}

/* Another root and another user; needs to be root. */
static void less_rights(void) {
    printf("root %d\n", chroot("/proc/self/fdinfo"));
    if (chdir("/") || setgid(65534) || setuid(65534))
        printf("no\n");
    worker(NULL);
    pid_t child = fork();
    if (child == 0) {
        worker(NULL);
        execl("/bin/true", "true", (char *)NULL);
        _exit(errno == ENOENT ? 7 : 8);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child %d\n", WEXITSTATUS(status));
}

static void start_and_join(void) {
    pthread_t t[4];
    int made = 0;
    for (; made < 4; made++)
        if (pthread_create(&t[made], NULL, worker, NULL))
            break;
    for (int i = 0; i < made; i++)
        pthread_join(t[i], NULL);
    printf("threads %d\n", made);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s\n", mode);
    if (pipe(pipes))
        return 1;
    if (!strcmp(mode, "stacks"))
        small_stacks();
    else if (!strcmp(mode, "alternate"))
        alternate_stack();
    else if (!strcmp(mode, "many"))
        many_threads();
    else if (!strcmp(mode, "calls"))
        few_calls(argc > 2);
    else if (!strcmp(mode, "rights"))
        less_rights();
    else if (!strcmp(mode, "space"))
        limited(RLIMIT_AS, 0), worker(NULL), printf("mapped %d\n",
            mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    else if (!strcmp(mode, "files"))
        limited(RLIMIT_NOFILE, 5), printf("opened %d\n", open("/", O_RDONLY)), start_and_join();
    else if (!strcmp(mode, "size"))
        limited(RLIMIT_FSIZE, 0), start_and_join();
    else
        return 2;
    printf("total %ld\n", total);
    return 0;
}
