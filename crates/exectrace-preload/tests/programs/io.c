/* Reads and writes that release each other, waits that a signal interrupts, and what descriptors
 * are. */
#include "held.h"
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int pipes[2], pair[2], event, epoll, client, server;
static pthread_t main_thread;

static void nothing(int s) { (void)s; }

static void *reader(void *p) {
    char byte[64];
    uint64_t value;
    struct epoll_event e;
    struct pollfd poller = {pipes[0], POLLIN, 0};
    struct iovec v = {byte, sizeof byte};
    long r = -1;
    thread_id = my_tid();
    switch ((int)(intptr_t)p) {
    case 0: r = read(pipes[0], byte, sizeof byte); break;
    case 1: r = recv(pair[0], byte, sizeof byte, 0); break;
    case 2: r = read(event, &value, sizeof value); break;
    case 3: r = poll(&poller, 1, -1), read(pipes[0], byte, sizeof byte); break;
    case 4: r = epoll_wait(epoll, &e, 1, -1), read(pipes[0], byte, sizeof byte); break;
    case 5: r = readv(pipes[0], &v, 1); break;
    case 6: r = recv(server, byte, sizeof byte, 0); break;
    }
    printf("read %ld\n", r);
    return NULL;
}

/* Interrupts the first thread when that sleeps. */
static void *interrupter(void *p) {
    (void)p;
    await_sleep();
    pthread_kill(main_thread, SIGUSR1);
    return NULL;
}

static void interrupted(int i) {
    pthread_t t;
    char byte[4];
    struct timespec day = {86400, 0}, rest;
    struct pollfd poller = {pipes[0], POLLIN, 0};
    struct epoll_event e;
    fd_set set;
    sigset_t none;
    long r = -1;
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    sigemptyset(&none);
    thread_id = my_tid();
    pthread_create(&t, NULL, interrupter, NULL);
    errno = 77;
    switch (i) {
    case 0: r = read(pipes[0], byte, 1); break;
    case 1: r = recv(pair[0], byte, 1, 0); break;
    case 2: r = poll(&poller, 1, -1); break;
    case 3: r = ppoll(&poller, 1, NULL, &none); break;
    case 4: r = select(pipes[0] + 1, &set, NULL, NULL, NULL); break;
    case 5: r = epoll_wait(epoll, &e, 1, -1); break;
    case 6: r = nanosleep(&day, &rest), r = r * 1000 - (rest.tv_sec > 86000); break;
    case 7: r = clock_nanosleep(CLOCK_MONOTONIC, 0, &day, &rest); break;
    case 8: r = usleep(900000000); break;
    case 9: r = sleep(86400) > 86000; break;
    case 10: r = pause(); break;
    case 11: r = waitpid(-1, NULL, 0); break;
    case 12: r = accept(pair[0], NULL, NULL), r = recvfrom(pair[0], byte, 1, 0, NULL, NULL); break;
    }
    int e2 = errno;
    pthread_join(t, NULL);
    printf("interrupted %d: %ld %d\n", i, r, e2);
}

int main(int argc, char **argv) {
    char text[] = "hello, reader";
    uint64_t one = 1;
    struct sigaction action = {0};
    (void)argc;
    main_thread = pthread_self();
    action.sa_handler = nothing;
    sigaction(SIGUSR1, &action, NULL);
    if (pipe2(pipes, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return 1;
    event = eventfd(0, 0), epoll = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {0}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &e);
    int listens = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t len = sizeof at;
    if (bind(listens, (void *)&at, len) || listen(listens, 1) ||
        getsockname(listens, (void *)&at, &len))
        return 2;
    client = socket(AF_INET, SOCK_STREAM, 0);
    printf("connect %d\n", connect(client, (void *)&at, len));
    server = accept4(listens, NULL, NULL, SOCK_CLOEXEC);
    printf("port %d\n", ntohs(at.sin_port));
    printf("pipe %d\nwriter %d\nsocket %d\nevent %d\ntcp %d\n", pipes[0], pipes[1], pair[0], event,
           server);
    for (intptr_t i = 0; i < 7; i++) {
        pthread_t t;
        long r = 0;
        pthread_create(&t, NULL, reader, (void *)i);
        await_sleep();
        struct iovec v[2] = {{text, 5}, {text + 5, 8}};
        switch (i) {
        case 0: case 3: case 4: r = write(pipes[1], text, 13); break;
        case 1: r = send(pair[1], text, 13, 0); break;
        case 2: r = write(event, &one, 8); break;
        case 5: r = writev(pipes[1], v, 2); break;
        case 6: r = sendto(client, text, 13, 0, NULL, 0); break;
        }
        pthread_join(t, NULL);
        printf("written %ld\n", r);
    }
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    for (int i = 0; i < 13; i++)
        interrupted(i);
    kill(child, 9);
    int status = 0;
    printf("waited %d", waitpid(child, &status, 0) == child);
    printf(" %d\n", WTERMSIG(status));

    int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0640);
    printf("write %ld\n", (long)write(file, text, 13));
    printf("sync %d %d\n", fsync(file), fdatasync(file));
    printf("flock %d\n", flock(file, LOCK_EX));
    struct flock whole = {F_WRLCK, SEEK_SET, 0, 0, 0};
    printf("fcntl %d %d\n", fcntl(file, F_SETLKW, &whole), fcntl(file, F_GETFD));
    char back[16] = {0};
    printf("pread %ld %s\n", (long)pread(file, back, 13, 0), back);
    printf("close %d", close(file));
    printf(" %d", close(file));
    printf(" %d\n", errno);
    file = open(argv[1], O_RDONLY);
    printf("again %d\n", openat(AT_FDCWD, "/no/such/file", O_RDONLY));
    printf("dup %d\n", dup2(pipes[0], file) == file);
    struct addrinfo *found = NULL;
    printf("resolve %d\n", getaddrinfo("127.0.0.1", "80", NULL, &found));
    struct timespec short_time = {0, 3000000};
    printf("sleep %d\n", nanosleep(&short_time, NULL));
    struct pollfd poller = {pipes[0], POLLIN, 0};
    printf("poll %d\n", poll(&poller, 1, 2));
    unlink(argv[1]);
    return 0;
}
