/* Every function that the library stands in for, each in four situations: a cancellation that waits
 * already, a cancellation while the call sleeps, and a signal while it sleeps, whose handler has
 * calls begun again or not. Of each one line: what it returned, errno, what it left. The lines are
 * the same with the library and without it. */
#include "held.h"
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio_ext.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <threads.h>
#include <linux/futex.h>

/* What fortified and 64-bit callers are linked to; no header declares them all. */
extern int __open_2(const char *, int), __open64_2(const char *, int);
extern int __openat_2(int, const char *, int), __openat64_2(int, const char *, int);
extern int open64(const char *, int, ...), openat64(int, const char *, int, ...);
extern int ftruncate64(int, off_t), fallocate64(int, int, off_t, off_t);
extern int creat64(const char *, mode_t), fcntl64(int, int, ...);
extern ssize_t __read_chk(int, void *, size_t, size_t);
extern ssize_t __pread_chk(int, void *, size_t, off_t, size_t);
extern ssize_t __pread64_chk(int, void *, size_t, off_t, size_t);
extern ssize_t pread64(int, void *, size_t, off_t), pwrite64(int, const void *, size_t, off_t);
extern ssize_t preadv64(int, const struct iovec *, int, off_t);
extern ssize_t pwritev64(int, const struct iovec *, int, off_t);
extern ssize_t preadv64v2(int, const struct iovec *, int, off_t, int);
extern ssize_t pwritev64v2(int, const struct iovec *, int, off_t, int);
extern ssize_t sendfile64(int, int, off_t *, size_t);
extern int lockf64(int, int, off_t);
extern ssize_t __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
extern int sem_clockwait(sem_t *, clockid_t, const struct timespec *);
extern int pthread_mutex_clocklock(pthread_mutex_t *, clockid_t, const struct timespec *);
extern int pthread_cond_clockwait(pthread_cond_t *, pthread_mutex_t *, clockid_t,
                                  const struct timespec *);
extern int pthread_rwlock_clockrdlock(pthread_rwlock_t *, clockid_t, const struct timespec *);
extern int pthread_rwlock_clockwrlock(pthread_rwlock_t *, clockid_t, const struct timespec *);
extern int pthread_clockjoin_np(pthread_t, void **, clockid_t, const struct timespec *);
extern int epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);
extern int close_range(unsigned, unsigned, int);
extern void closefrom(int);
extern pid_t wait3(int *, int, struct rusage *), wait4(pid_t, int *, int, struct rusage *);

/* The functions on streams by their own names: headers have some as others, or as code. */
#define NAMED(type, name, ...) extern type own_##name(__VA_ARGS__) __asm__(#name);
NAMED(size_t, fread, void *, size_t, size_t, FILE *)
NAMED(size_t, fread_unlocked, void *, size_t, size_t, FILE *)
NAMED(size_t, __fread_chk, void *, size_t, size_t, size_t, FILE *)
NAMED(size_t, __fread_unlocked_chk, void *, size_t, size_t, size_t, FILE *)
NAMED(int, fgetc, FILE *)
NAMED(int, getc, FILE *)
NAMED(int, _IO_getc, FILE *)
NAMED(int, getchar, void)
NAMED(int, fgetc_unlocked, FILE *)
NAMED(int, getc_unlocked, FILE *)
NAMED(int, getchar_unlocked, void)
NAMED(int, __uflow, FILE *)
NAMED(char *, fgets, char *, int, FILE *)
NAMED(char *, fgets_unlocked, char *, int, FILE *)
NAMED(char *, __fgets_chk, char *, size_t, int, FILE *)
NAMED(char *, __fgets_unlocked_chk, char *, size_t, int, FILE *)
NAMED(ssize_t, getline, char **, size_t *, FILE *)
NAMED(ssize_t, getdelim, char **, size_t *, int, FILE *)
NAMED(ssize_t, __getdelim, char **, size_t *, int, FILE *)
NAMED(int, scanf, const char *, ...)
NAMED(int, fscanf, FILE *, const char *, ...)
NAMED(int, __isoc99_scanf, const char *, ...)
NAMED(int, __isoc99_fscanf, FILE *, const char *, ...)
NAMED(int, vscanf, const char *, va_list)
NAMED(int, vfscanf, FILE *, const char *, va_list)
NAMED(int, __isoc99_vscanf, const char *, va_list)
NAMED(int, __isoc99_vfscanf, FILE *, const char *, va_list)
NAMED(size_t, fwrite, const void *, size_t, size_t, FILE *)
NAMED(size_t, fwrite_unlocked, const void *, size_t, size_t, FILE *)
NAMED(int, fputc, int, FILE *)
NAMED(int, putc, int, FILE *)
NAMED(int, _IO_putc, int, FILE *)
NAMED(int, putchar, int)
NAMED(int, fputc_unlocked, int, FILE *)
NAMED(int, putc_unlocked, int, FILE *)
NAMED(int, putchar_unlocked, int)
NAMED(int, __overflow, FILE *, int)
NAMED(int, fputs, const char *, FILE *)
NAMED(int, fputs_unlocked, const char *, FILE *)
NAMED(int, puts, const char *)
NAMED(int, printf, const char *, ...)
NAMED(int, fprintf, FILE *, const char *, ...)
NAMED(int, __printf_chk, int, const char *, ...)
NAMED(int, __fprintf_chk, FILE *, int, const char *, ...)
NAMED(int, vprintf, const char *, va_list)
NAMED(int, vfprintf, FILE *, const char *, va_list)
NAMED(int, __vprintf_chk, int, const char *, va_list)
NAMED(int, __vfprintf_chk, FILE *, int, const char *, va_list)
NAMED(int, fflush, FILE *)
NAMED(int, fflush_unlocked, FILE *)
NAMED(int, fclose, FILE *)
NAMED(int, fseeko, FILE *, off_t, int)
NAMED(int, fseeko64, FILE *, off_t, int)
NAMED(int, fsetpos, FILE *, const fpos_t *)
NAMED(int, fsetpos64, FILE *, const fpos_t *)
NAMED(FILE *, fopen, const char *, const char *)
NAMED(FILE *, fopen64, const char *, const char *)
NAMED(FILE *, freopen, const char *, const char *, FILE *)
NAMED(FILE *, freopen64, const char *, const char *, FILE *)
NAMED(FILE *, tmpfile, void)
NAMED(FILE *, tmpfile64, void)

/* What the calls work on. Each round makes the locks anew; what else was used up is put back. */
static pthread_mutex_t mutex;
static pthread_cond_t cond;
static pthread_rwlock_t rwlock;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static mtx_t mtx;
static cnd_t cnd;
static sem_t sem, target_sem;
static uint32_t word;
static pthread_t target;
static int has_target, empty[2], other[1], outlet[2], full[2], pair[2], packed[2];
static int counter, epoll, file, second;
static int listens, to_full, accepts;
static struct sockaddr_un address, accept_address;
static char fifo[] = "/tmp/every-call-XXXXXX/fifo", folder[sizeof fifo];
static char entry[sizeof fifo + 8], other_entry[sizeof fifo + 8];
static pid_t child;
static char bytes[1 << 16], shell[64], *const nothing_argv[] = {"no", NULL};
static char *mapped;
static struct timespec day = {86400, 0}, real_later, mono_later, left_time;
static struct timeval day_tv;
static struct pollfd poller;
static struct epoll_event event;
static fd_set set;
static sigset_t own_signal, no_signal;
static siginfo_t info;
static struct iovec vector = {bytes, 8};
static struct msghdr message;
static struct mmsghdr messages;
static volatile int handled, ended, cleaned;

static void on_signal(int s) { (void)s, handled++; }

static void system_wait(pid_t of) {
    /* Not by a hooked name, and no cancellation point. */
    while (syscall(SYS_wait4, of, NULL, 0, NULL) < 0 && errno == EINTR)
        ;
}

static void *be_joined(void *p) {
    while (sem_wait(&target_sem))
        ;
    return p;
}
static int be_joined11(void *p) { return (int)(intptr_t)be_joined(p); }
static void *end_at_once(void *p) { return p; }
static int end_at_once11(void *p) { return p != NULL; }

static int is_ready(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) > 0;
}
static void drain(int fd) {
    while (is_ready(fd))
        (void)!read(fd, bytes, 4096);
}
static void accept_all(int at) {
    while (is_ready(at))
        close(accept(at, NULL, NULL));
}

/* Before a call. */
static void make(void) {
    memset(&mutex, 0, sizeof mutex), memset(&cond, 0, sizeof cond);
    memset(&rwlock, 0, sizeof rwlock);
    pthread_barrier_init(&barrier, NULL, 2), pthread_spin_init(&spin, 0);
    mtx_init(&mtx, mtx_timed), cnd_init(&cnd);
    sem_init(&sem, 0, 0), sem_init(&target_sem, 0, 0);
    word = 0;
    memset(&message, 0, sizeof message), memset(&messages, 0, sizeof messages);
    message.msg_iov = messages.msg_hdr.msg_iov = &vector;
    message.msg_iovlen = messages.msg_hdr.msg_iovlen = 1;
    FD_ZERO(&set);
    FD_SET(empty[0], &set);
    poller = (struct pollfd){empty[0], POLLIN, 0};
    day_tv = (struct timeval){86400, 0};
    drain(empty[0]), drain(outlet[0]), drain(pair[0]), drain(counter);
    fcntl(full[1], F_SETFL, O_NONBLOCK);
    while (write(full[1], bytes, sizeof bytes) > 0 || write(full[1], bytes, 1) > 0)
        ;
    fcntl(full[1], F_SETFL, 0);
    while (send(packed[0], bytes, 4096, MSG_DONTWAIT) > 0 ||
           send(packed[0], bytes, 1, MSG_DONTWAIT) > 0)
        ;
    accept_all(accepts);
}
static void none(void) {}
static void lock_mutex(void) { pthread_mutex_lock(&mutex); }
static void free_mutex(void) { pthread_mutex_unlock(&mutex); }
static void signal_cond(void) {
    pthread_mutex_lock(&mutex), pthread_cond_signal(&cond), pthread_mutex_unlock(&mutex);
}
static void write_lock(void) { pthread_rwlock_wrlock(&rwlock); }
static void free_rwlock(void) { pthread_rwlock_unlock(&rwlock); }
static void post(void) { sem_post(&sem); }
static void arrive(void) { pthread_barrier_wait(&barrier); }
static void lock_spin(void) { pthread_spin_lock(&spin); }
static void free_spin(void) { pthread_spin_unlock(&spin); }
static void lock_mtx(void) { mtx_lock(&mtx); }
static void free_mtx(void) { mtx_unlock(&mtx); }
static void signal_cnd(void) { mtx_lock(&mtx), cnd_signal(&cnd), mtx_unlock(&mtx); }
static void wake_word(void) { word = 1, syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0); }
static void make_target(void) { has_target = !pthread_create(&target, NULL, be_joined, NULL); }
static void make_target11(void) { has_target = thrd_create(&target, be_joined11, NULL) == 0; }
static void end_target(void) { sem_post(&target_sem); }
static void fill(void) { (void)!write(empty[1], "12345678", 8); }

static void send_pair(void) { (void)!send(pair[1], "12345678", 8, 0); }
static void count(void) { eventfd_write(counter, 1); }
static void kill_child(void) {
    /* Unless it was waited for. */
    if (syscall(SYS_wait4, child, NULL, WNOHANG, NULL) == 0)
        kill(child, SIGKILL);
}
static void reap(void) { system_wait(-1); }
static void end_child(void) { kill_child(), system_wait(child); }
static void make_child(void) {
    if ((child = fork()) == 0)
        for (;;)
            syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}
static void send_usr2(void);
static void open_other_end(void) {
    /* Of the FIFO, for reading and for writing: whoever waits for either goes on. */
    other[0] = (int)syscall(SYS_openat, AT_FDCWD, fifo, O_RDWR | O_NONBLOCK, 0);
}
static void close_other_end(void) {
    if (other[0] >= 0)
        syscall(SYS_close, other[0]);
}
/* All that there is: a writer goes on where a page is free, or a third of the socket. */
static void take_pipe(void) {
    (void)!read(full[0], bytes, sizeof bytes);
}
static void take_socket(void) {
    while (recv(packed[1], bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
}
static void knock(void) {
    int one = socket(AF_UNIX, SOCK_STREAM, 0);
    (void)!connect(one, (void *)&accept_address, sizeof accept_address);
    close(one);
}
static void use_up_backlog(void) {
    for (int r = 0; r == 0;) {
        int one = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        r = connect(one, (void *)&address, sizeof address);
        close(one);
    }
    to_full = socket(AF_UNIX, SOCK_STREAM, 0);
}
static void let_in(void) { accept_all(listens); }
static void end_connect(void) { close(to_full), let_in(); }
static void ofd(int command, short kind) {
    struct flock whole = {.l_type = kind, .l_whence = SEEK_SET};
    fcntl(second, command, &whole);
}
static void hold_file(void) { ofd(F_OFD_SETLK, F_WRLCK); }
static void free_file(void) { ofd(F_OFD_SETLK, F_UNLCK); }
static void forget_file(void) {
    struct flock whole = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    fcntl(file, F_SETLK, &whole), fcntl(file, F_OFD_SETLK, &whole);
}
static void forget_names(void) {
    for (int i = 0; i < 2; i++) {
        syscall(SYS_unlinkat, AT_FDCWD, i ? entry : other_entry, 0);
        syscall(SYS_unlinkat, AT_FDCWD, i ? entry : other_entry, AT_REMOVEDIR);
    }
}
static void make_file(void) {
    syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, entry, O_CREAT | O_WRONLY, 0600));
}
static void make_folder(void) { syscall(SYS_mkdirat, AT_FDCWD, entry, 0700); }
static void hold_flock(void) { flock(second, LOCK_EX); }
static void free_flock(void) { flock(second, LOCK_UN); }
static void forget_flock(void) { flock(file, LOCK_UN), flock(second, LOCK_UN); }

/* Streams: each call has one of its own. */
static FILE *in, *out, *std_in, *std_out;
static char *line;
static size_t line_room;
static fpos_t position;
static void own_streams(void) { stdin = std_in, stdout = std_out; }
static void open_in(void) { in = fdopen(dup(empty[0]), "r"); }
static void open_std_in(void) { open_in(), stdin = in; }
static void close_in(void) { own_streams(), own_fclose(in); }
static void fill_line(void) { (void)!write(empty[1], "1234 67\n", 8); }
static void open_held(void) {
    out = fdopen(dup(full[1]), "w");
    own_fputs("12345678", out);
}
static void open_out(void) { out = fdopen(dup(full[1]), "w"), setvbuf(out, NULL, _IONBF, 0); }
/* Each byte finds the buffer full. */
static void open_narrow(void) {
    static char room[2];
    out = fdopen(dup(full[1]), "w"), setvbuf(out, room, _IOFBF, sizeof room);
    own_fputc('1', out), own_fputc('2', out);
}
static void open_std_out(void) { open_out(), stdout = out; }
static void close_out(void) { own_streams(), __fpurge(out), own_fclose(out); }
static void open_file(void) { in = fdopen(dup(file), "r+"), fgetpos(in, &position); }
static void open_shell_of_fifo(void) { in = popen(shell, "r"); }
static void end_shell(void) {
    if (other[0] < 0)
        open_other_end();
    system_wait(-1), close_other_end();
}
static void open_null(void) { in = own_fopen("/dev/null", "r"); }
static int formatted(int which, ...) {
    const char *print = "%d %s %g %d %d %d\n", *scan = "%d %s";
    int r = -2;
    va_list list;
    va_start(list, which);
    switch (which) {
    case 0: r = own_vprintf(print, list); break;
    case 1: r = own_vfprintf(out, print, list); break;
    case 2: r = own___vprintf_chk(1, print, list); break;
    case 3: r = own___vfprintf_chk(out, 1, print, list); break;
    case 4: r = own_vscanf(scan, list); break;
    case 5: r = own_vfscanf(in, scan, list); break;
    case 6: r = own___isoc99_vscanf(scan, list); break;
    case 7: r = own___isoc99_vfscanf(in, scan, list); break;
    }
    va_end(list);
    return r;
}
#define PRINTED "%d %s %g %d %d %d\n", 12, "abc", 1.5, 4, 5, 6
#define PRINTS(which) formatted(which, 12, "abc", 1.5, 4, 5, 6)
static int number;
#define SCANNED "%d %s", &number, bytes
#define SCANS(which) formatted(which, &number, bytes) + number
static long opened(FILE *f) { return f ? own_fclose(f) + 1 : -1; }
static long reopened(FILE *f) { return f && f == in ? own_fclose(f) + 1 : -1; }

/* The calls. */
#define LOCKED(lock, unlock, call) (lock, r = (call), (void)unlock, r)
static long fork_and_end(void) {
    pid_t one = fork();
    if (one == 0)
        syscall(SYS_exit_group, 6);
    system_wait(one);
    return one > 0;
}
static long open_and_close(int fd) {
    if (fd >= 0)
        syscall(SYS_close, fd);
    return fd >= 0 ? 1 : fd;
}
static long made_two(int r, int *fds) {
    if (r == 0)
        syscall(SYS_close, fds[0]), syscall(SYS_close, fds[1]);
    return r;
}
static long set_lock(int (*call)(int, int, ...), int command) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return call(file, command, &whole);
}
static long start_thread(void) {
    pthread_t t;
    int r = pthread_create(&t, NULL, end_at_once, NULL);
    pthread_detach(t);
    return r;
}
static long start_thread11(void) {
    thrd_t t;
    int r = thrd_create(&t, end_at_once11, NULL);
    thrd_detach(t);
    return r;
}
static long open_shell(void) {
    FILE *f = popen("exit 0", "r");
    /* The shell is left to the kernel: to wait for it is a cancellation point of pclose. */
    return f != NULL;
}
static long resolve(void) {
    struct addrinfo *found = NULL, hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    int r = getaddrinfo("127.0.0.1", "80", &hints, &found);
    if (r == 0)
        freeaddrinfo(found);
    return r;
}
static long load(void *handle) {
    int found = handle != NULL;
    return handle ? dlclose(handle) * 10 + found : -1;
}
static pid_t spawned;

/* QUICK never sleeps; MEETS sleeps until another thread arrives, JOINS until it ends; SPINS takes
 * its CPU. */
enum { QUICK, SLEEPS, MEETS, JOINS, SPINS };
struct call {
    const char *name;
    int how;
    void (*before)(void);
    long (*run)(void);
    void (*release)(void);
    void (*after)(void);
};

/* name: how, before, the call, what lets it go on, after. */
#define EACH(C)                                                                                    \
    C(syscall, SLEEPS, none, syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0), wake_word,   \
      none)                                                                                        \
    C(pthread_create, QUICK, none, start_thread(), none, none)                                     \
    C(pthread_join, JOINS,  make_target, pthread_join(target, NULL), end_target, none)             \
    C(pthread_timedjoin_np, JOINS,  make_target,                                                   \
      pthread_timedjoin_np(target, NULL, &real_later), end_target, none)                           \
    C(pthread_clockjoin_np, JOINS,  make_target,                                                   \
      pthread_clockjoin_np(target, NULL, CLOCK_MONOTONIC, &mono_later), end_target, none)          \
    C(pthread_mutex_lock, SLEEPS, lock_mutex, pthread_mutex_lock(&mutex), free_mutex, none)        \
    C(pthread_mutex_timedlock, SLEEPS, lock_mutex, pthread_mutex_timedlock(&mutex, &real_later),   \
      free_mutex, none)                                                                            \
    C(pthread_mutex_clocklock, SLEEPS, lock_mutex,                                                 \
      pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &mono_later), free_mutex, none)             \
    C(pthread_mutex_unlock, QUICK, none,                                                           \
      (pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex)), none, none)             \
    C(pthread_cond_wait, SLEEPS, none,                                                             \
      LOCKED(pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex),                             \
             pthread_cond_wait(&cond, &mutex)), signal_cond, none)                                 \
    C(pthread_cond_timedwait, SLEEPS, none,                                                        \
      LOCKED(pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex),                             \
             pthread_cond_timedwait(&cond, &mutex, &real_later)), signal_cond, none)               \
    C(pthread_cond_clockwait, SLEEPS, none,                                                        \
      LOCKED(pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex),                             \
             pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &mono_later)), signal_cond,    \
      none)                                                                                        \
    C(pthread_cond_signal, QUICK, none, pthread_cond_signal(&cond), none, none)                    \
    C(pthread_cond_broadcast, QUICK, none, pthread_cond_broadcast(&cond), none, none)              \
    C(pthread_rwlock_rdlock, SLEEPS, write_lock, pthread_rwlock_rdlock(&rwlock), free_rwlock,      \
      none)                                                                                        \
    C(pthread_rwlock_wrlock, SLEEPS, write_lock, pthread_rwlock_wrlock(&rwlock), free_rwlock,      \
      none)                                                                                        \
    C(pthread_rwlock_timedrdlock, SLEEPS, write_lock,                                              \
      pthread_rwlock_timedrdlock(&rwlock, &real_later), free_rwlock, none)                         \
    C(pthread_rwlock_timedwrlock, SLEEPS, write_lock,                                              \
      pthread_rwlock_timedwrlock(&rwlock, &real_later), free_rwlock, none)                         \
    C(pthread_rwlock_clockrdlock, SLEEPS, write_lock,                                              \
      pthread_rwlock_clockrdlock(&rwlock, CLOCK_MONOTONIC, &mono_later), free_rwlock, none)        \
    C(pthread_rwlock_clockwrlock, SLEEPS, write_lock,                                              \
      pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &mono_later), free_rwlock, none)        \
    C(pthread_rwlock_unlock, QUICK, none,                                                          \
      (pthread_rwlock_rdlock(&rwlock), pthread_rwlock_unlock(&rwlock)), none, none)       \
    C(sem_wait, SLEEPS, none, sem_wait(&sem), post, none)                                          \
    C(sem_timedwait, SLEEPS, none, sem_timedwait(&sem, &real_later), post, none)                   \
    C(sem_clockwait, SLEEPS, none, sem_clockwait(&sem, CLOCK_MONOTONIC, &mono_later), post, none)  \
    C(sem_post, QUICK, none, sem_post(&sem), none, none)                                           \
    C(pthread_barrier_wait, MEETS, none, (pthread_barrier_wait(&barrier), 0), arrive, none)        \
    C(pthread_spin_lock, SPINS, lock_spin, pthread_spin_lock(&spin), free_spin, none)              \
    C(mtx_lock, SLEEPS, lock_mtx, mtx_lock(&mtx), free_mtx, none)                                  \
    C(mtx_timedlock, SLEEPS, lock_mtx, mtx_timedlock(&mtx, &real_later), free_mtx, none)           \
    C(mtx_unlock, QUICK, none, (mtx_lock(&mtx), mtx_unlock(&mtx)), none, none)            \
    C(cnd_wait, SLEEPS, none, LOCKED(mtx_lock(&mtx), mtx_unlock(&mtx), cnd_wait(&cnd, &mtx)),      \
      signal_cnd, none)                                                                            \
    C(cnd_timedwait, SLEEPS, none,                                                                 \
      LOCKED(mtx_lock(&mtx), mtx_unlock(&mtx), cnd_timedwait(&cnd, &mtx, &real_later)),            \
      signal_cnd, none)                                                                            \
    C(cnd_signal, QUICK, none, cnd_signal(&cnd), none, none)                                       \
    C(cnd_broadcast, QUICK, none, cnd_broadcast(&cnd), none, none)                                 \
    C(thrd_create, QUICK, none, start_thread11(), none, none)                                      \
    C(thrd_join, JOINS,  make_target11, thrd_join(target, NULL), end_target, none)                 \
    C(clock_nanosleep, SLEEPS, none, clock_nanosleep(CLOCK_MONOTONIC, 0, &day, &left_time), none,  \
      none)                                                                                        \
    C(sleep, SLEEPS, none, sleep(86400) > 86000, none, none)                                       \
    C(sigwait, SLEEPS, none, sigwait(&own_signal, (int *)bytes), send_usr2,    \
      none)                                                                                        \
    C(msync, QUICK, none, msync(mapped, 4096, MS_SYNC), none, none)                                \
    C(getaddrinfo, QUICK, none, resolve(), none, none)                                             \
    C(open, SLEEPS, none, open_and_close(open(fifo, O_RDONLY)), open_other_end, close_other_end)   \
    C(open64, SLEEPS, none, open_and_close(open64(fifo, O_RDONLY)), open_other_end,                \
      close_other_end)                                                                             \
    C(openat, SLEEPS, none, open_and_close(openat(AT_FDCWD, fifo, O_WRONLY)), open_other_end,      \
      close_other_end)                                                                             \
    C(openat64, SLEEPS, none, open_and_close(openat64(AT_FDCWD, fifo, O_WRONLY)), open_other_end,  \
      close_other_end)                                                                             \
    C(creat, SLEEPS, none, open_and_close(creat(fifo, 0600)), open_other_end, close_other_end)     \
    C(creat64, SLEEPS, none, open_and_close(creat64(fifo, 0600)), open_other_end, close_other_end) \
    C(__open_2, SLEEPS, none, open_and_close(__open_2(fifo, O_RDONLY)), open_other_end,            \
      close_other_end)                                                                             \
    C(__open64_2, SLEEPS, none, open_and_close(__open64_2(fifo, O_RDONLY)), open_other_end,        \
      close_other_end)                                                                             \
    C(__openat_2, SLEEPS, none, open_and_close(__openat_2(AT_FDCWD, fifo, O_RDONLY)),              \
      open_other_end, close_other_end)                                                             \
    C(__openat64_2, SLEEPS, none, open_and_close(__openat64_2(AT_FDCWD, fifo, O_RDONLY)),          \
      open_other_end, close_other_end)                                                             \
    C(socket, QUICK, none, open_and_close(socket(AF_UNIX, SOCK_STREAM, 0)), none, none)            \
    C(eventfd, QUICK, none, open_and_close(eventfd(0, 0)), none, none)                             \
    C(timerfd_create, QUICK, none, open_and_close(timerfd_create(CLOCK_MONOTONIC, 0)), none, none) \
    C(epoll_create, QUICK, none, open_and_close(epoll_create(1)), none, none)                      \
    C(epoll_ctl, QUICK, none,                                                                      \
      epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) +                                           \
          epoll_ctl(epoll, EPOLL_CTL_DEL, counter, NULL), none, none)                              \
    C(epoll_create1, QUICK, none, open_and_close(epoll_create1(0)), none, none)                    \
    C(dup, QUICK, none, open_and_close(dup(1)), none, none)                                        \
    C(dup2, QUICK, none, open_and_close(dup2(1, 300)), none, none)                                 \
    C(dup3, QUICK, none, open_and_close(dup3(1, 300, O_CLOEXEC)), none, none)                      \
    C(pipe, QUICK, none, made_two(pipe(fds), fds), none, none)                                     \
    C(pipe2, QUICK, none, made_two(pipe2(fds, O_CLOEXEC), fds), none, none)                        \
    C(socketpair, QUICK, none, made_two(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), fds), none,      \
      none)                                                                                        \
    C(accept, SLEEPS, none, open_and_close(accept(accepts, NULL, NULL)), knock, none)   \
    C(accept4, SLEEPS, none, open_and_close(accept4(accepts, NULL, NULL, 0)), knock,    \
      none)                                                                                        \
    C(close, QUICK, none, close(901), none, none)                                                  \
    C(close_range, QUICK, none, close_range(900, 910, 0), none, none)                              \
    C(closefrom, QUICK, none, (closefrom(900), 0), none, none)                                     \
    C(fcntl, SLEEPS, hold_file, set_lock(fcntl, F_SETLKW), free_file, forget_file)                 \
    C(fcntl64, SLEEPS, hold_file, set_lock(fcntl64, F_OFD_SETLKW), free_file, forget_file)         \
    C(dlopen, QUICK, none, load(dlopen("libm.so.6", RTLD_NOW)), none, none)                        \
    C(dlmopen, QUICK, none, load(dlmopen(LM_ID_BASE, "libm.so.6", RTLD_NOW)), none, none)          \
    C(dlsym, QUICK, none, dlsym(RTLD_DEFAULT, "no_such_name") == NULL, none, none)                 \
    C(dlclose, QUICK, none, load(dlopen(NULL, RTLD_NOW)), none, none)                              \
    C(prctl, QUICK, none, prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), none, none)                          \
    C(fork, QUICK, none, fork_and_end(), none, none)                                               \
    C(execve, QUICK, none, execve("/no/such", nothing_argv, nothing_argv), none, none)             \
    C(execv, QUICK, none, execv("/no/such", nothing_argv), none, none)                             \
    C(execvp, QUICK, none, execvp("no-such-program", nothing_argv), none, none)                    \
    C(execvpe, QUICK, none, execvpe("no-such-program", nothing_argv, nothing_argv), none, none)    \
    C(fexecve, QUICK, none, fexecve(empty[0], nothing_argv, nothing_argv), none, none)             \
    C(execl, QUICK, none, execl("/no/such", "no", (char *)NULL), none, none)                       \
    C(execlp, QUICK, none, execlp("no-such-program", "no", (char *)NULL), none, none)              \
    C(execle, QUICK, none, execle("/no/such", "no", (char *)NULL, nothing_argv), none, none)       \
    C(posix_spawn, QUICK, none,                                                                    \
      posix_spawn(&spawned, "/no/such", NULL, NULL, nothing_argv, nothing_argv), none, none)       \
    C(posix_spawnp, QUICK, none,                                                                   \
      posix_spawnp(&spawned, "no-such-program", NULL, NULL, nothing_argv, nothing_argv), none,     \
      none)                                                                                        \
    C(system, SLEEPS, none, system(shell), open_other_end, close_other_end)                                 \
    C(popen, QUICK, none, open_shell(), none, reap)                                                \
    C(read, SLEEPS, none, read(empty[0], bytes, 8), fill, none)                                    \
    C(pread, QUICK, none, pread(file, bytes, 8, 0), none, none)                                    \
    C(pread64, QUICK, none, pread64(file, bytes, 8, 0), none, none)                                \
    C(readv, SLEEPS, none, readv(empty[0], &vector, 1), fill, none)                                \
    C(preadv, QUICK, none, preadv(file, &vector, 1, 0), none, none)                                \
    C(preadv64, QUICK, none, preadv64(file, &vector, 1, 0), none, none)                            \
    C(preadv2, SLEEPS, none, preadv2(empty[0], &vector, 1, -1, 0), fill, none)                     \
    C(preadv64v2, SLEEPS, none, preadv64v2(empty[0], &vector, 1, -1, 0), fill, none)               \
    C(__read_chk, SLEEPS, none, __read_chk(empty[0], bytes, 8, 64), fill, none)                    \
    C(__pread_chk, QUICK, none, __pread_chk(file, bytes, 8, 0, 64), none, none)                    \
    C(__pread64_chk, QUICK, none, __pread64_chk(file, bytes, 8, 0, 64), none, none)                \
    C(write, SLEEPS, none, write(full[1], bytes, 8), take_pipe, none)                              \
    C(pwrite, QUICK, none, pwrite(file, bytes, 8, 0), none, none)                                  \
    C(pwrite64, QUICK, none, pwrite64(file, bytes, 8, 0), none, none)                              \
    C(writev, SLEEPS, none, writev(full[1], &vector, 1), take_pipe, none)                          \
    C(pwritev, QUICK, none, pwritev(file, &vector, 1, 0), none, none)                              \
    C(pwritev64, QUICK, none, pwritev64(file, &vector, 1, 0), none, none)                          \
    C(pwritev2, SLEEPS, none, pwritev2(full[1], &vector, 1, -1, 0), take_pipe, none)               \
    C(pwritev64v2, SLEEPS, none, pwritev64v2(full[1], &vector, 1, -1, 0), take_pipe, none)         \
    C(eventfd_read, SLEEPS, none, eventfd_read(counter, (eventfd_t *)bytes), count, none)          \
    C(sendfile, SLEEPS, none, sendfile(full[1], file, &zero, 8), take_pipe, none)                  \
    C(sendfile64, SLEEPS, none, sendfile64(full[1], file, &zero, 8), take_pipe, none)              \
    C(splice, SLEEPS, none, splice(empty[0], NULL, outlet[1], NULL, 8, 0), fill, none)              \
    C(tee, SLEEPS, none, tee(empty[0], outlet[1], 8, 0), fill, none)                                \
    C(copy_file_range, QUICK, none, copy_file_range(file, &zero, file, &later, 8, 0), none, none)  \
    C(fsync, QUICK, none, fsync(file), none, none)                                                 \
    C(fdatasync, QUICK, none, fdatasync(file), none, none)                                         \
    C(syncfs, QUICK, none, syncfs(file), none, none)                                               \
    C(sync_file_range, QUICK, none, sync_file_range(file, 0, 8, 0), none, none)                    \
    C(unlink, QUICK, make_file, unlink(entry), none, forget_names)                                 \
    C(unlinkat, QUICK, make_file, unlinkat(AT_FDCWD, entry, 0), none, forget_names)                \
    C(rmdir, QUICK, make_folder, rmdir(entry), none, forget_names)                                 \
    C(rename, QUICK, make_file, rename(entry, other_entry), none, forget_names)                    \
    C(renameat, QUICK, make_file, renameat(AT_FDCWD, entry, AT_FDCWD, other_entry), none,          \
      forget_names)                                                                                \
    C(renameat2, QUICK, make_file, renameat2(AT_FDCWD, entry, AT_FDCWD, other_entry, 0), none,     \
      forget_names)                                                                                \
    C(mkdir, QUICK, none, mkdir(entry, 0700), none, forget_names)                                  \
    C(mkdirat, QUICK, none, mkdirat(AT_FDCWD, entry, 0700), none, forget_names)                    \
    C(ftruncate, QUICK, none, ftruncate(file, 8192), none, none)                                   \
    C(ftruncate64, QUICK, none, ftruncate64(file, 8192), none, none)                               \
    C(fallocate, QUICK, none, fallocate(file, 0, 0, 8192), none, none)                             \
    C(fallocate64, QUICK, none, fallocate64(file, 0, 0, 8192), none, none)                         \
    C(flock, SLEEPS, hold_flock, flock(file, LOCK_EX), free_flock, forget_flock)                   \
    C(lockf, SLEEPS, hold_file, lockf(file, F_LOCK, 0), free_file, forget_file)                    \
    C(lockf64, SLEEPS, hold_file, lockf64(file, F_LOCK, 0), free_file, forget_file)                \
    C(connect, SLEEPS, use_up_backlog, connect(to_full, (void *)&address, sizeof address),         \
      let_in, end_connect)                                                                         \
    C(recv, SLEEPS, none, recv(pair[0], bytes, 8, 0), send_pair, none)                              \
    C(recvfrom, SLEEPS, none, recvfrom(pair[0], bytes, 8, 0, NULL, NULL), send_pair, none)          \
    C(recvmsg, SLEEPS, none, recvmsg(pair[0], &message, 0), send_pair, none)                        \
    C(recvmmsg, SLEEPS, none, recvmmsg(pair[0], &messages, 1, 0, NULL), send_pair, none)            \
    C(__recv_chk, SLEEPS, none, __recv_chk(pair[0], bytes, 8, 64, 0), send_pair, none)              \
    C(__recvfrom_chk, SLEEPS, none, __recvfrom_chk(pair[0], bytes, 8, 64, 0, NULL, NULL),          \
      send_pair, none)                                                                              \
    C(send, SLEEPS, none, send(packed[0], bytes, 8, 0), take_socket, none)                         \
    C(sendto, SLEEPS, none, sendto(packed[0], bytes, 8, 0, NULL, 0), take_socket, none)            \
    C(sendmsg, SLEEPS, none, sendmsg(packed[0], &message, 0), take_socket, none)                   \
    C(sendmmsg, SLEEPS, none, sendmmsg(packed[0], &messages, 1, 0), take_socket, none)             \
    C(poll, SLEEPS, none, poll(&poller, 1, -1), fill, none)                                        \
    C(ppoll, SLEEPS, none, ppoll(&poller, 1, &day, &no_signal), fill, none)                        \
    C(__poll_chk, SLEEPS, none, __poll_chk(&poller, 1, -1, sizeof poller), fill, none)             \
    C(__ppoll_chk, SLEEPS, none, __ppoll_chk(&poller, 1, &day, &no_signal, sizeof poller), fill,   \
      none)                                                                                        \
    C(select, SLEEPS, none, select(empty[0] + 1, &set, NULL, NULL, &day_tv), fill, none)           \
    C(pselect, SLEEPS, none, pselect(empty[0] + 1, &set, NULL, NULL, &day, &no_signal), fill,      \
      none)                                                                                        \
    C(epoll_wait, SLEEPS, none, epoll_wait(epoll, &event, 1, -1), fill, none)                      \
    C(epoll_pwait, SLEEPS, none, epoll_pwait(epoll, &event, 1, -1, &no_signal), fill, none)        \
    C(epoll_pwait2, SLEEPS, none, epoll_pwait2(epoll, &event, 1, &day, &no_signal), fill, none)    \
    C(nanosleep, SLEEPS, none, nanosleep(&day, &left_time), none, none)                            \
    C(usleep, SLEEPS, none, usleep(900000000), none, none)                                         \
    C(thrd_sleep, SLEEPS, none, thrd_sleep(&day, &left_time), none, none)                          \
    C(sched_yield, QUICK, none, sched_yield(), none, none)                                         \
    C(pause, SLEEPS, none, pause(), none, none)                                                    \
    C(sigsuspend, SLEEPS, none, sigsuspend(&no_signal), none, none)                                \
    C(sigwaitinfo, SLEEPS, none, sigwaitinfo(&own_signal, &info), send_usr2, none)                 \
    C(sigtimedwait, SLEEPS, none, sigtimedwait(&own_signal, &info, &day), send_usr2, none)         \
    C(wait, SLEEPS, make_child, wait(NULL) > 0, kill_child, end_child)                            \
    C(waitpid, SLEEPS, make_child, waitpid(child, NULL, 0) > 0, kill_child, end_child)            \
    C(wait3, SLEEPS, make_child, wait3(NULL, 0, NULL) > 0, kill_child, end_child)                 \
    C(wait4, SLEEPS, make_child, wait4(child, NULL, 0, NULL) > 0, kill_child, end_child)          \
    C(waitid, SLEEPS, make_child, waitid(P_PID, child, &info, WEXITED), kill_child, end_child)     \
    STREAMS(C)
#define READS(C, name, call) C(name, SLEEPS, open_in, own_##name call, fill_line, close_in)
#define READS_STD(C, name, call) C(name, SLEEPS, open_std_in, own_##name call, fill_line, close_in)
#define WRITES(C, name, call) C(name, SLEEPS, open_out, own_##name call, take_pipe, close_out)
#define WRITES_STD(C, name, call)                                                                  \
    C(name, SLEEPS, open_std_out, own_##name call, take_pipe, close_out)
#define MOVES(C, name, call) C(name, QUICK, open_file, call, none, close_in)
#define STREAMS(C)                                                                                 \
    READS(C, fread, (bytes, 1, 8, in))                                                             \
    READS(C, fread_unlocked, (bytes, 2, 4, in))                                                    \
    READS(C, __fread_chk, (bytes, 64, 1, 8, in))                                                   \
    READS(C, __fread_unlocked_chk, (bytes, 64, 1, 8, in))                                          \
    READS(C, fgetc, (in))                                                                          \
    READS(C, getc, (in))                                                                           \
    READS(C, _IO_getc, (in))                                                                       \
    READS_STD(C, getchar, ())                                                                      \
    READS(C, fgetc_unlocked, (in))                                                                 \
    READS(C, getc_unlocked, (in))                                                                  \
    READS_STD(C, getchar_unlocked, ())                                                             \
    READS(C, __uflow, (in))                                                                        \
    READS(C, fgets, (bytes, 64, in) != NULL)                                                       \
    READS(C, fgets_unlocked, (bytes, 64, in) != NULL)                                              \
    READS(C, __fgets_chk, (bytes, 64, 60, in) != NULL)                                             \
    READS(C, __fgets_unlocked_chk, (bytes, 64, 60, in) != NULL)                                    \
    READS(C, getline, (&line, &line_room, in))                                                     \
    READS(C, getdelim, (&line, &line_room, ' ', in))                                               \
    READS(C, __getdelim, (&line, &line_room, '\n', in))                                            \
    READS_STD(C, scanf, (SCANNED) + number)                                                        \
    READS(C, fscanf, (in, SCANNED) + number)                                                       \
    READS_STD(C, __isoc99_scanf, (SCANNED) + number)                                               \
    READS(C, __isoc99_fscanf, (in, SCANNED) + number)                                              \
    C(vscanf, SLEEPS, open_std_in, SCANS(4), fill_line, close_in)                                  \
    C(vfscanf, SLEEPS, open_in, SCANS(5), fill_line, close_in)                                     \
    C(__isoc99_vscanf, SLEEPS, open_std_in, SCANS(6), fill_line, close_in)                         \
    C(__isoc99_vfscanf, SLEEPS, open_in, SCANS(7), fill_line, close_in)                            \
    WRITES(C, fwrite, (bytes, 1, 8, out))                                                          \
    WRITES(C, fwrite_unlocked, (bytes, 2, 4, out))                                                 \
    WRITES(C, fputc, ('c', out))                                                                   \
    WRITES(C, putc, ('c', out))                                                                    \
    WRITES(C, _IO_putc, ('c', out))                                                                \
    WRITES_STD(C, putchar, ('c'))                                                                  \
    WRITES(C, fputc_unlocked, ('c', out))                                                          \
    WRITES(C, putc_unlocked, ('c', out))                                                           \
    WRITES_STD(C, putchar_unlocked, ('c'))                                                         \
    C(__overflow, SLEEPS, open_narrow, own___overflow(out, 'c'), take_pipe, close_out)             \
    WRITES(C, fputs, ("a text", out))                                                              \
    WRITES(C, fputs_unlocked, ("a text", out))                                                     \
    WRITES_STD(C, puts, ("a text"))                                                                \
    WRITES_STD(C, printf, (PRINTED))                                                               \
    WRITES(C, fprintf, (out, PRINTED))                                                             \
    WRITES_STD(C, __printf_chk, (1, PRINTED))                                                      \
    WRITES(C, __fprintf_chk, (out, 1, PRINTED))                                                    \
    C(vprintf, SLEEPS, open_std_out, PRINTS(0), take_pipe, close_out)                              \
    C(vfprintf, SLEEPS, open_out, PRINTS(1), take_pipe, close_out)                                 \
    C(__vprintf_chk, SLEEPS, open_std_out, PRINTS(2), take_pipe, close_out)                        \
    C(__vfprintf_chk, SLEEPS, open_out, PRINTS(3), take_pipe, close_out)                           \
    C(fflush, SLEEPS, open_held, own_fflush(out), take_pipe, close_out)                            \
    C(fflush_unlocked, SLEEPS, open_held, own_fflush_unlocked(out), take_pipe, close_out)          \
    C(fclose, SLEEPS, open_held, own_fclose(out), take_pipe, none)                                 \
    C(pclose, SLEEPS, open_shell_of_fifo, pclose(in), open_other_end, end_shell)                   \
    C(fopen, SLEEPS, none, opened(own_fopen(fifo, "r")), open_other_end, close_other_end)          \
    C(fopen64, SLEEPS, none, opened(own_fopen64(fifo, "w")), open_other_end, close_other_end)      \
    C(freopen, SLEEPS, open_null, reopened(own_freopen(fifo, "r", in)), open_other_end,            \
      close_other_end)                                                                             \
    C(freopen64, SLEEPS, open_null, reopened(own_freopen64(fifo, "w", in)), open_other_end,        \
      close_other_end)                                                                             \
    C(tmpfile, QUICK, none, opened(own_tmpfile()), none, none)                                     \
    C(tmpfile64, QUICK, none, opened(own_tmpfile64()), none, none)                                 \
    MOVES(C, fseek, fseek(in, 16, SEEK_SET))                                                       \
    MOVES(C, fseeko, own_fseeko(in, 5000, SEEK_SET))                                               \
    MOVES(C, fseeko64, own_fseeko64(in, -9, SEEK_END))                                             \
    MOVES(C, fsetpos, own_fsetpos(in, &position))                                                  \
    MOVES(C, fsetpos64, own_fsetpos64(in, &position))                                              \
    MOVES(C, rewind, (rewind(in), 0))

#define FUNCTION(name, how, before, call, release, after)                                          \
    static long call_##name(void) {                                                                \
        long r = 0;                                                                                \
        int fds[2] = {-1, -1};                                                                     \
        off_t zero = 0, later = 4096;                                                              \
        (void)r, (void)fds, (void)zero, (void)later;                                               \
        return (long)(call);                                                                       \
    }
EACH(FUNCTION)

#define ROW(name, how, before, call, release, after)                                               \
    {#name, how, before, call_##name, release, after},
static const struct call calls[] = {EACH(ROW)};
enum { CALLS = sizeof calls / sizeof *calls };

static const struct call *now;
static pthread_t victim;
static long result;
static int error, waits_for_cancel;
static sem_t go;

static void send_usr2(void) { pthread_kill(victim, SIGUSR2); }
static void clean(void *p) { (void)p, cleaned++, own_streams(); }

static void *run(void *p) {
    if (waits_for_cancel) {
        int old;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
        while (sem_wait(&go))
            ;
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    }
    pthread_cleanup_push(clean, p);
    errno = 77;
    thread_id = my_tid();
    result = now->run();
    error = errno;
    own_streams();
    ended = 1;
    pthread_cleanup_pop(0);
    return NULL;
}

/* Whether the thread has ended or is cancelled; else it sleeps once more. */
static int is_over(int tid) {
    for (;;) {
        char path[64], text[512];
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
        int seen = 0;
        for (; seen < 5; seen++) {
            if (ended || cleaned)
                return 1;
            int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
            long n = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text - 1);
            if (fd >= 0)
                syscall(SYS_close, fd);
            text[n > 0 ? n : 0] = 0;
            char *state = strrchr(text, ')');
            if (!state || state[2] != 'S')
                break;
            usleep(200);
        }
        if (seen == 5)
            return ended || cleaned;
        usleep(100);
    }
}

enum { PLAIN, PENDING, CANCELLED, INTERRUPTED, RESTARTED };
static const char *const situations[] = {"plain", "pending", "cancelled", "interrupted",
                                         "restarted"};

/* What the thread sees while it sleeps, or spins. */
static int disturb(const struct call *c, int situation) {
    int again = 1;
    while (!thread_id)
        usleep(100);
    int tid = thread_id;
    if (c->how != SPINS)
        await_sleep();
    if (situation == CANCELLED) {
        pthread_cancel(victim);
    } else {
        pthread_kill(victim, SIGUSR1);
        while (!handled)
            usleep(100);
    }
    if (c->how != SPINS)
        again = !is_over(tid);
    if (again)
        c->release();
    return again && situation != CANCELLED;
}

static void one(const struct call *c, int situation) {
    struct sigaction action = {0};
    void *value = NULL;
    int again = 0;
    make();
    action.sa_handler = on_signal;
    action.sa_flags = situation == RESTARTED ? SA_RESTART : 0;
    sigaction(SIGUSR1, &action, NULL);
    now = c, handled = ended = cleaned = 0, result = -9, error = 0;
    thread_id = has_target = child = 0, other[0] = -1;
    waits_for_cancel = situation == PENDING;
    c->before();
    pthread_create(&victim, NULL, run, NULL);
    if (situation == PENDING) {
        pthread_cancel(victim);
        /* What is no cancellation point finds what it would wait for. */
        if (c->how != MEETS && c->how != JOINS)
            c->release();
        sem_post(&go);
        if (c->how == MEETS)
            c->release();
    } else if (situation != PLAIN) {
        again = disturb(c, situation);
    }
    pthread_join(victim, &value);
    if (value == PTHREAD_CANCELED)
        printf("%s %s: cancelled %d\n", situations[situation], c->name, cleaned);
    else
        printf("%s %s: returned %ld, errno %d%s\n", situations[situation], c->name, result, error,
               again ? ", after it had slept again" : "");
    c->after();
    if (has_target && (value == PTHREAD_CANCELED || result != 0)) {
        end_target();
        pthread_join(target, NULL);
    }
}

static int bound(const char *name) {
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", folder, name);
    return bind(s, (void *)&address, sizeof address) || listen(s, 0) ? -1 : s;
}

static int begin(void) {
    strcpy(folder, fifo), *strrchr(folder, '/') = 0;
    if (!mkdtemp(folder))
        return 1;
    snprintf(entry, sizeof entry, "%s/entry", folder);
    snprintf(other_entry, sizeof other_entry, "%s/other", folder);
    memcpy(fifo, folder, strlen(folder));
    strcpy(shell, ": < "), strcat(shell, fifo);
    accepts = bound("accepts"), accept_address = address, listens = bound("listens");
    counter = eventfd(0, 0), epoll = epoll_create1(0);
    file = memfd_create("file", 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    second = open(path, O_RDWR);
    if (mkfifo(fifo, 0600) || accepts < 0 || listens < 0 || second < 0 || pipe(empty) ||
        pipe(full) || pipe(outlet) || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, packed) || ftruncate(file, 8192))
        return 2;
    mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct epoll_event in = {EPOLLIN, {0}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, empty[0], &in);
    clock_gettime(CLOCK_REALTIME, &real_later), clock_gettime(CLOCK_MONOTONIC, &mono_later);
    real_later.tv_sec += 86400, mono_later.tv_sec += 86400;
    sigemptyset(&no_signal), sigemptyset(&own_signal), sigaddset(&own_signal, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &own_signal, NULL);
    sem_init(&go, 0, 0);
    return 0;
}

int main(void) {
    alarm(100);
    setvbuf(stdout, NULL, _IOLBF, 0);
    std_in = stdin, std_out = stdout;
    int wrong = begin();
    if (wrong)
        return wrong;
    for (int i = 0; i < CALLS; i++) {
        if (calls[i].how == QUICK)
            one(&calls[i], PLAIN);
        for (int s = PENDING; s <= (calls[i].how == QUICK ? PENDING : RESTARTED); s++)
            one(&calls[i], s);
    }
    /* What a call has left in a stream goes there at the end. */
    take_pipe();
    unlink(fifo), unlink(address.sun_path), unlink(accept_address.sun_path);
    printf("folder %d\n", rmdir(folder));
    return 0;
}
