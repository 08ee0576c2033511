/* Short threads, made and joined by four others in the order in which they were made; and a thread
 * that libc makes for a timer. */
#include <dirent.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MAKERS = 4, ROUNDS = 250, EACH = 10 };
static sem_t rung;

static void *adds(void *p) {
    return (void *)((intptr_t)p + 1);
}

static void *makes(void *p) {
    intptr_t wrong = 0;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t made[EACH];
        for (intptr_t i = 0; i < EACH; i++)
            wrong += pthread_create(&made[i], NULL, adds, (void *)i) != 0;
        for (intptr_t i = 0; i < EACH; i++) {
            void *value = NULL;
            wrong += pthread_join(made[i], &value) != 0 || (intptr_t)value != i + 1;
        }
        /* On one CPU the recorder's other process must run at times. */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return p ? NULL : (void *)wrong;
}

/* How many threads there are. */
static int threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    int n = -2;
    if (!tasks)
        return 0;
    while (readdir(tasks))
        n++;
    closedir(tasks);
    return n;
}

static void rings(union sigval value) {
    (void)value;
    sem_post(&rung);
}

int main(void) {
    pthread_t makers[MAKERS];
    intptr_t wrong = 0;
    for (int i = 0; i < MAKERS; i++)
        pthread_create(&makers[i], NULL, makes, NULL);
    for (int i = 0; i < MAKERS; i++) {
        void *value;
        pthread_join(makers[i], &value);
        wrong += (intptr_t)value;
    }
    printf("wrong %d\n", (int)wrong);
    sem_init(&rung, 0, 0);
    timer_t timer;
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = rings;
    /* Long enough for the wait to have begun, or else it is over at once. */
    struct itimerspec when = {{0, 0}, {0, 50000000}};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL))
        return 1;
    while (sem_wait(&rung))
        ;
    /* The end of the process would cut the one that rang short. This one stays, and libc's own. */
    while (threads() > 2)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    puts("rung");
    return 0;
}
