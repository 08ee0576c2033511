/* Each lock of libc, taken a thousand times by one thread, then once by a second thread that has to
 * wait. What was waited for is printed. */
#include "held.h"
#include <semaphore.h>
#include <threads.h>

#define TRIES 1000

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, timed = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t checked, recursive, protect, clocked = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t reads = PTHREAD_RWLOCK_INITIALIZER, writes = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER, all = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t of_cond = PTHREAD_MUTEX_INITIALIZER;
static int ready;
static sem_t sem;
static pthread_barrier_t barrier;
static pthread_spinlock_t spin;
static mtx_t mtx;
static cnd_t cnd;

static struct timespec later(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_sec += 60;
    return t;
}

static void *second(void *p) {
    struct timespec real = later(CLOCK_REALTIME), mono = later(CLOCK_MONOTONIC);
    int r = -1;
    thread_id = my_tid();
    switch ((int)(intptr_t)p) {
    case 0: r = pthread_mutex_lock(&mutex), pthread_mutex_unlock(&mutex); break;
    case 1: r = pthread_mutex_timedlock(&timed, &real), pthread_mutex_unlock(&timed); break;
    case 2: r = pthread_mutex_clocklock(&clocked, CLOCK_MONOTONIC, &mono);
            pthread_mutex_unlock(&clocked); break;
    case 3: r = pthread_rwlock_rdlock(&reads), pthread_rwlock_unlock(&reads); break;
    case 4: r = pthread_rwlock_wrlock(&writes), pthread_rwlock_unlock(&writes); break;
    case 5: pthread_mutex_lock(&of_cond);
            while (ready < 1) r = pthread_cond_wait(&cond, &of_cond);
            pthread_mutex_unlock(&of_cond); break;
    case 6: pthread_mutex_lock(&of_cond);
            while (ready < 2) r = pthread_cond_timedwait(&all, &of_cond, &real);
            pthread_mutex_unlock(&of_cond); break;
    case 7: errno = 77; r = sem_wait(&sem); printf("errno %d\n", errno); break;
    case 8: r = pthread_barrier_wait(&barrier) ? 1 : 0; break;
    case 9: r = mtx_lock(&mtx), mtx_unlock(&mtx); break;
    case 10: mtx_lock(&mtx);
            while (ready < 3) r = cnd_wait(&cnd, &mtx);
            mtx_unlock(&mtx); break;
    }
    printf("result %d\n", r);
    return NULL;
}

static int second11(void *p) { return second(p), 42; }

int main(void) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK), pthread_mutex_init(&checked, &a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE), pthread_mutex_init(&recursive, &a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_NORMAL);
    pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_PROTECT), pthread_mutex_init(&protect, &a);
    sem_init(&sem, 0, 1), pthread_barrier_init(&barrier, NULL, 2), pthread_spin_init(&spin, 0);
    mtx_init(&mtx, mtx_plain), cnd_init(&cnd);
    int bad = 0;
    errno = 77;
    for (int i = 0; i < TRIES; i++) {
        bad |= pthread_mutex_lock(&mutex) | pthread_mutex_unlock(&mutex);
        bad |= pthread_mutex_lock(&recursive) | pthread_mutex_lock(&recursive);
        bad |= pthread_mutex_unlock(&recursive) | pthread_mutex_unlock(&recursive);
        bad |= pthread_rwlock_rdlock(&reads) | pthread_rwlock_unlock(&reads);
        bad |= pthread_rwlock_wrlock(&writes) | pthread_rwlock_unlock(&writes);
        bad |= sem_wait(&sem) | sem_post(&sem);
        bad |= pthread_spin_lock(&spin) | pthread_spin_unlock(&spin);
        bad |= pthread_cond_signal(&cond) | pthread_cond_broadcast(&all);
        bad |= mtx_lock(&mtx) | mtx_unlock(&mtx) | cnd_signal(&cnd) | cnd_broadcast(&cnd);
    }
    printf("bad %d errno %d\n", bad, errno);
    /* What the calls say when they refuse. */
    struct timespec wrong = {0, -1}, past = {1, 0};
    printf("checked %d", pthread_mutex_lock(&checked));
    printf(" %d", pthread_mutex_lock(&checked));
    printf(" %d", pthread_mutex_timedlock(&checked, &past));
    printf(" %d\n", pthread_mutex_unlock(&checked));
    printf("not held %d\n", pthread_mutex_unlock(&checked));
    printf("protect %d\n", pthread_mutex_lock(&protect));
    pthread_mutex_lock(&mutex);
    printf("past %d", pthread_mutex_timedlock(&mutex, &past));
    printf(" wrong %d\n", pthread_mutex_timedlock(&mutex, &wrong));
    pthread_mutex_unlock(&mutex);
    pthread_rwlock_wrlock(&writes);
    printf("own %d", pthread_rwlock_wrlock(&writes));
    printf(" %d\n", pthread_rwlock_timedrdlock(&writes, &past));
    pthread_rwlock_unlock(&writes);
    sem_wait(&sem);
    int r = sem_timedwait(&sem, &past), e = errno;
    printf("sem %d %d", r, e);
    r = sem_timedwait(&sem, &wrong), e = errno;
    printf(" %d %d\n", r, e);
    pthread_mutex_lock(&of_cond);
    printf("late %d\n", pthread_cond_timedwait(&cond, &of_cond, &past));
    pthread_mutex_unlock(&of_cond);
    say("holder", (void *)(intptr_t)my_tid());

    struct { const char *name; void *object; } waits[] = {
        {"mutex", &mutex}, {"timed", &timed}, {"clocked", &clocked}, {"reads", &reads},
        {"writes", &writes}, {"cond", &cond}, {"all", &all}, {"sem", &sem}, {"barrier", &barrier},
        {"mtx", &mtx}, {"cnd", &cnd}};
    for (intptr_t i = 0; i < 11; i++) {
        pthread_t t;
        thrd_t t11;
        switch (i) {
        case 0: pthread_mutex_lock(&mutex); break;
        case 1: pthread_mutex_lock(&timed); break;
        case 2: pthread_mutex_lock(&clocked); break;
        case 3: pthread_rwlock_wrlock(&reads); break;
        case 4: pthread_rwlock_rdlock(&writes); break;
        case 9: mtx_lock(&mtx); break;
        }
        if (i < 9)
            pthread_create(&t, NULL, second, (void *)i);
        else
            thrd_create(&t11, second11, (void *)i);
        await_sleep();
        say(waits[i].name, waits[i].object);
        fflush(stdout);
        switch (i) {
        case 0: pthread_mutex_unlock(&mutex); break;
        case 1: pthread_mutex_unlock(&timed); break;
        case 2: pthread_mutex_unlock(&clocked); break;
        case 3: pthread_rwlock_unlock(&reads); break;
        case 4: pthread_rwlock_unlock(&writes); break;
        case 5: pthread_mutex_lock(&of_cond), ready = 1, pthread_mutex_unlock(&of_cond);
                pthread_cond_signal(&cond); break;
        case 6: pthread_mutex_lock(&of_cond), ready = 2, pthread_mutex_unlock(&of_cond);
                pthread_cond_broadcast(&all); break;
        case 7: sem_post(&sem); break;
        case 8: pthread_barrier_wait(&barrier); break;
        case 9: mtx_unlock(&mtx); break;
        case 10: mtx_lock(&mtx), ready = 3, mtx_unlock(&mtx), cnd_signal(&cnd); break;
        }
        int value = 0;
        if (i < 9)
            pthread_join(t, NULL);
        else
            thrd_join(t11, &value);
        printf("value %d\n", value);
    }
    return 0;
}
