/* A time that waits which nobody ends are over at. */
#include <time.h>

/* A millisecond from now. A macro's worth of code, so that it adds no function of its own. */
static inline __attribute__((always_inline)) struct timespec soon(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 1000000;
    if (t.tv_nsec >= 1000000000)
        t.tv_nsec -= 1000000000, t.tv_sec++;
    return t;
}
