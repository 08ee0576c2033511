/* Two, three and eight threads wait for one thing, in turn for each thing of the C library by which
 * threads wait; one after the other each is let go by the one before, or all by one. All of them are
 * asleep before the first is let go, so that who releases whom is no accident; it is printed: what
 * they waited by, the one that waited, and whose calls came while it did, the last of them the one
 * that let it go. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 8

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, of_cond = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t writes = PTHREAD_RWLOCK_INITIALIZER, reads = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t one = PTHREAD_COND_INITIALIZER, all = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem;
static int turns, is_open, at_cond, has_tcp, event, ends[2], pair[2], tcp[2];
static int threads, about, inside, order[MOST], waits_in[MOST];
static pthread_t joined[MOST];
static int ends_of[MOST][2], joined_tid[MOST], polls[MOST], events[MOST];

static int my_tid(void) { return (int)syscall(SYS_gettid); }
static int get(int *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

static int check(int r, const char *what) {
    if (r < 0)
        perror(what), exit(9);
    return r;
}

/* Until a thread that has said that it is about to wait sleeps, as the kernel says. */
static void await_sleep(int tid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    for (int seen = 0; seen < 5; usleep(300)) {
        FILE *f = fopen(path, "r");
        if (!f)
            return;
        char *state = fgets(text, sizeof text, f) ? strrchr(text, ')') : NULL;
        seen = state && state[2] == 'S' ? seen + 1 : 0;
        fclose(f);
    }
}

/* Until all wait at the condition variable, and not for its lock: then that is free. */
static void until_all_are_at_cond(void) {
    for (int seen = 0; seen < threads; usleep(300)) {
        pthread_mutex_lock(&of_cond);
        seen = at_cond;
        pthread_mutex_unlock(&of_cond);
    }
}

static int log_turn(void) {
    int turn = __atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST);
    order[turn] = my_tid();
    return turn;
}

static void until_all_are_in(void) {
    while (get(&inside) < threads)
        usleep(300);
}

enum { MUTEX, WRITES, READS, SIGNAL, BROADCAST, SEM, BARRIER, JOIN, PIPE, EVENTFD, PAIR, POLL, LIST, SET,
    TCP, CASES };
static const char *kinds[CASES] = {"mutex lock", "rwlock write", "rwlock read", "condvar wait",
    "condvar wait", "semaphore wait", "barrier wait", "join", "read", "read", "receive", "epoll wait",
    "poll", "select", "receive"};
static int is_stream(int what) { return what >= PIPE; }
static int has_own(int what) { return what == POLL || what == LIST || what == SET; }
static int is_of_one(int what) { return what == READS || what == BROADCAST || what == BARRIER; }

/* Lets one go, or all of them. */
static void release(int what) {
    uint64_t n = 1;
    switch (what) {
    case MUTEX: pthread_mutex_unlock(&mutex); break;
    case WRITES: pthread_rwlock_unlock(&writes); break;
    case READS: pthread_rwlock_unlock(&reads); break;
    case SIGNAL: pthread_mutex_lock(&of_cond), turns = 1, pthread_mutex_unlock(&of_cond);
                 pthread_cond_signal(&one); break;
    case BROADCAST: pthread_mutex_lock(&of_cond), is_open = 1, pthread_mutex_unlock(&of_cond);
                    pthread_cond_broadcast(&all); break;
    case SEM: sem_post(&sem); break;
    case BARRIER: pthread_barrier_wait(&barrier); break;
    case PIPE: check(write(ends[1], "x", 1), "pipe"); break;
    case EVENTFD: check(write(event, &n, sizeof n), "eventfd"); break;
    case PAIR: check(send(pair[1], "x", 1, 0), "pair"); break;
    /* Each has its own, and is let go in the order of their numbers. */
    case POLL: case LIST: case SET: check(write(events[get(&inside)], &n, sizeof n), "event"); break;
    case TCP: check(send(tcp[1], "x", 1, 0), "tcp"); break;
    }
}

static int what_now;
static void *contender(void *p) {
    int what = what_now, at = (int)(intptr_t)p, tid = my_tid();
    char byte;
    uint64_t n;
    struct epoll_event ready;
    /* At the first of the two nothing happens. */
    struct pollfd list[] = {{ends[0], POLLIN, 0}, {events[at], POLLIN, 0}};
    fd_set set;
    FD_ZERO(&set);
    if (has_own(what))
        FD_SET(ends[0], &set), FD_SET(events[at], &set);
    __atomic_store_n(&waits_in[at], tid, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&about, 1, __ATOMIC_SEQ_CST);
    switch (what) {
    case MUTEX: pthread_mutex_lock(&mutex); break;
    case WRITES: pthread_rwlock_wrlock(&writes); break;
    case READS: pthread_rwlock_rdlock(&reads); break;
    case SIGNAL: pthread_mutex_lock(&of_cond), at_cond++;
                 while (!turns) pthread_cond_wait(&one, &of_cond);
                 turns = 0, pthread_mutex_unlock(&of_cond); break;
    case BROADCAST: pthread_mutex_lock(&of_cond), at_cond++;
                    while (!is_open) pthread_cond_wait(&all, &of_cond);
                    pthread_mutex_unlock(&of_cond); break;
    case SEM: sem_wait(&sem); break;
    case BARRIER: pthread_barrier_wait(&barrier); break;
    case JOIN: pthread_join(joined[at], NULL); break;
    case PIPE: check(read(ends[0], &byte, 1), "read"); break;
    case EVENTFD: check(read(event, &n, sizeof n), "read"); break;
    case PAIR: check(recv(pair[0], &byte, 1, 0), "recv"); break;
    case POLL: check(epoll_wait(polls[at], &ready, 1, -1), "epoll_wait"); break;
    case LIST: check(poll(list, 2, -1), "poll"); break;
    case SET: check(select(FD_SETSIZE, &set, NULL, NULL, NULL), "select"); break;
    case TCP: check(recv(tcp[0], &byte, 1, 0), "recv"); break;
    }
    int is_last = log_turn() == threads - 1;
    if (what == READS)
        until_all_are_in(), pthread_rwlock_unlock(&reads);
    else if (!is_of_one(what) && what != JOIN && !(is_last && is_stream(what)))
        release(what);
    return NULL;
}

/* Ends when its pipe does. */
static void *ends_when_told(void *p) {
    char byte;
    int at = (int)(intptr_t)p;
    __atomic_store_n(&joined_tid[at], my_tid(), __ATOMIC_SEQ_CST);
    while (read(ends_of[at][0], &byte, 1) > 0)
        ;
    return NULL;
}

static void prepare(int what) {
    inside = about = turns = is_open = at_cond = 0;
    switch (what) {
    case MUTEX: pthread_mutex_lock(&mutex); break;
    case WRITES: pthread_rwlock_wrlock(&writes); break;
    case READS: pthread_rwlock_wrlock(&reads); break;
    case SEM: sem_init(&sem, 0, 0); break;
    case BARRIER: pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1); break;
    case PIPE: check(pipe(ends), "pipe"); break;
    case EVENTFD: event = check(eventfd(0, EFD_SEMAPHORE), "eventfd"); break;
    case PAIR: check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair"); break;
    case POLL: case LIST: case SET:
        for (int i = 0; i < threads; i++) {
            struct epoll_event reads = {.events = EPOLLIN};
            events[i] = check(eventfd(0, 0), "eventfd"), polls[i] = check(epoll_create1(0), "epoll");
            check(epoll_ctl(polls[i], EPOLL_CTL_ADD, events[i], &reads), "epoll_ctl");
        }
        break;
    case JOIN:
        for (int i = 0; i < threads; i++) {
            joined_tid[i] = 0;
            check(pipe(ends_of[i]), "pipe");
            pthread_create(&joined[i], NULL, ends_when_told, (void *)(intptr_t)i);
            while (!get(&joined_tid[i]))
                usleep(300);
        }
        break;
    }
}

static void round_of(int what) {
    pthread_t all_of[MOST];
    prepare(what);
    what_now = what;
    for (int i = 0; i < threads; i++)
        pthread_create(&all_of[i], NULL, contender, (void *)(intptr_t)i);
    while (get(&about) < threads)
        usleep(300);
    if (what == SIGNAL || what == BROADCAST)
        until_all_are_at_cond();
    for (int i = 0; i < threads; i++)
        await_sleep(waits_in[i]);
    for (int i = 0; what == JOIN && i < threads; i++)
        close(ends_of[i][1]);
    release(what);
    for (int i = 0; i < threads; i++)
        pthread_join(all_of[i], NULL);
    for (int i = 0; i < threads; i++) {
        int of = what == JOIN ? waits_in[i] : order[i];
        printf("%s:%d:%d:", kinds[what], threads, of);
        /* A reader's wait is over at the first write; a lock's is divided at each release. */
        if (what == JOIN)
            printf(" %d", joined_tid[i]);
        else if (i == 0 || is_of_one(what))
            printf(" %d", my_tid());
        else if (is_stream(what))
            printf(" %d", order[i - 1]);
        else
            printf(" %d", my_tid());
        for (int k = 0; k < i && !is_stream(what) && what != JOIN && !is_of_one(what); k++)
            printf(" %d", order[k]);
        printf("\n");
    }
}

static void connect_tcp(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listens = socket(AF_INET, SOCK_STREAM, 0);
    tcp[0] = socket(AF_INET, SOCK_STREAM, 0);
    has_tcp = listens >= 0 && !bind(listens, (struct sockaddr *)&at, len) && !listen(listens, 1) &&
        !getsockname(listens, (struct sockaddr *)&at, &len) &&
        !connect(tcp[0], (struct sockaddr *)&at, len);
    if (has_tcp)
        tcp[1] = check(accept(listens, NULL, NULL), "accept");
}

int main(void) {
    int numbers[] = {2, 3, MOST};
    connect_tcp();
    for (int i = 0; i < 3; i++) {
        threads = numbers[i];
        for (int what = 0; what < CASES; what++)
            if (what != TCP || has_tcp)
                round_of(what);
    }
    return 0;
}
