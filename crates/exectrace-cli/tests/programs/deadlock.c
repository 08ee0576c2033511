/* Two threads take two mutexes in opposite orders and wait for each other for ever; a third one
 * holds its own and asks for it again. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both;

__attribute__((noinline)) void take_b(void) { pthread_mutex_lock(&b), pthread_mutex_unlock(&b); }
__attribute__((noinline)) void take_a(void) { pthread_mutex_lock(&a), pthread_mutex_unlock(&a); }
__attribute__((noinline)) void again(void) { pthread_mutex_lock(&own), pthread_mutex_unlock(&own); }

static void *first(void *p) {
    pthread_setname_np(pthread_self(), "first");
    pthread_mutex_lock(&a);
    pthread_barrier_wait(&both);
    take_b();
    pthread_mutex_unlock(&a);
    return p;
}

static void *second(void *p) {
    pthread_setname_np(pthread_self(), "second");
    pthread_mutex_lock(&b);
    pthread_barrier_wait(&both);
    take_a();
    pthread_mutex_unlock(&b);
    return p;
}

static void *third(void *p) {
    pthread_setname_np(pthread_self(), "third");
    pthread_mutex_lock(&own);
    again();
    pthread_mutex_unlock(&own);
    return p;
}

int main(void) {
    pthread_t t[3];
    pthread_barrier_init(&both, NULL, 2);
    pthread_create(&t[0], NULL, first, NULL);
    pthread_create(&t[1], NULL, second, NULL);
    pthread_create(&t[2], NULL, third, NULL);
    pthread_join(t[0], NULL);
    return 0;
}
