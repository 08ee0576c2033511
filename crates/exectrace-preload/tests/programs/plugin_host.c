/* Knows nothing of the recorder. Loads one plug-in, which its threads call all the time, and loads,
   calls and unloads another one meanwhile, some times. Says how often each was called. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 3, TIMES = 5, CALLS = 20, STAYING = 400 };

typedef void (*work_t)(uint64_t);

static work_t load(const char *path, void **handle) {
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*handle) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    work_t work = (work_t)dlsym(*handle, "plugin_work");
    if (!work) {
        exit(3);
    }
    return work;
}

static work_t staying;

static void *stays(void *of) {
    for (uint64_t i = 0; i < STAYING; i++) {
        staying((uint64_t)(uintptr_t)of * 1000 + i);
    }
    return NULL;
}

static void *calls(void *of) {
    for (uint64_t i = 0; i < CALLS; i++) {
        ((work_t)of)(1000000 + i);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 1;
    }
    void *handle;
    staying = load(argv[1], &handle);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, stays, (void *)i);
    }
    for (int i = 0; i < TIMES; i++) {
        void *other;
        work_t work = load(argv[2], &other);
        calls((void *)work);
        pthread_t one;
        pthread_create(&one, NULL, calls, (void *)work);
        pthread_join(one, NULL);
        dlclose(other);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    staying(7);
    dlclose(handle);
    printf("staying %d\n", THREADS * STAYING + 1);
    printf("coming %d\n", TIMES * 2 * CALLS);
    return 0;
}
