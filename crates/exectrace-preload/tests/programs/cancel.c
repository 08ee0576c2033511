/* A thread is cancelled in each call that is a cancellation point; the process lives on, cleanup
 * handlers run, and the thread's value is PTHREAD_CANCELED. */
#include "held.h"
#include <poll.h>
#include <signal.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t sem;
static int pipes[2], sockets[2], full[2], epoll;
static pthread_t other;
static volatile int cleaned;

static void clean(void *p) {
    cleaned++;
    if (p)
        pthread_mutex_unlock(p);
}

static void *sleeps_long(void *p) {
    sleep(1000);
    return p;
}

static void *victim(void *p) {
    char byte[8];
    fd_set set;
    struct pollfd poller = {pipes[0], POLLIN, 0};
    struct epoll_event event;
    struct timespec day = {86400, 0}, then;
    clock_gettime(CLOCK_REALTIME, &then);
    then.tv_sec += 86400;
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    int i = (int)(intptr_t)p;
    if (i <= 1)
        pthread_mutex_lock(&mutex);
    pthread_cleanup_push(clean, i <= 1 ? &mutex : NULL);
    thread_id = my_tid();
    switch (i) {
    case 0: pthread_cond_wait(&cond, &mutex); break;
    case 1: pthread_cond_timedwait(&cond, &mutex, &then); break;
    case 2: sem_wait(&sem); break;
    case 3: sem_timedwait(&sem, &then); break;
    case 4: pthread_join(other, NULL); break;
    case 5: read(pipes[0], byte, 1); break;
    case 6: recv(sockets[0], byte, 1, 0); break;
    case 7: poll(&poller, 1, -1); break;
    case 8: select(pipes[0] + 1, &set, NULL, NULL, NULL); break;
    case 9: epoll_wait(epoll, &event, 1, -1); break;
    case 10: nanosleep(&day, NULL); break;
    case 11: clock_nanosleep(CLOCK_MONOTONIC, 0, &day, NULL); break;
    case 12: usleep(900000000); break;
    case 13: sleep(86400); break;
    case 14: write(full[1], byte, 8); break;
    case 15: waitpid(-1, NULL, 0); break;
    case 17: system("exec sleep 30"); break;
    case 16: accept(sockets[0], NULL, NULL); recv(sockets[0], byte, 1, 0); break;
    }
    pthread_cleanup_pop(0);
    return NULL;
}

int main(void) {
    char block[4096];
    memset(block, 0, sizeof block);
    if (pipe(pipes) || pipe(full) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        return 1;
    fcntl(full[1], F_SETFL, O_NONBLOCK);
    while (write(full[1], block, sizeof block) > 0)
        ;
    while (write(full[1], block, 1) > 0)
        ;
    fcntl(full[1], F_SETFL, 0);
    sem_init(&sem, 0, 0);
    epoll = epoll_create1(0);
    pthread_create(&other, NULL, sleeps_long, NULL);
    pid_t child = fork();
    if (child == 0) {
        for (;;)
            pause();
    }
    int last = 17;
    for (intptr_t i = 0; i <= last; i++) {
        pthread_t t;
        void *value = NULL;
        pthread_create(&t, NULL, victim, (void *)i);
        await_sleep();
        pthread_cancel(t);
        pthread_join(t, &value);
        printf("cancelled %d\n", value == PTHREAD_CANCELED);
    }
    /* A cancellation that waits already is seen by a semaphore that is free. */
    printf("cleaned %d\n", cleaned);
    printf("mutex %d\n", pthread_mutex_trylock(&mutex));
    /* The shell was killed and waited for, and signals do what they did. */
    struct sigaction now;
    sigaction(SIGINT, NULL, &now);
    printf("left %d %d\n", waitpid(-1, NULL, WNOHANG), now.sa_handler == SIG_DFL);
    kill(child, 9);
    waitpid(child, NULL, 0);
    return 0;
}
