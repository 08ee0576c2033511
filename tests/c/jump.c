/* Calls a function that may be left by leave(), as a handler does that jumps out of what it has
   interrupted. */
#include <setjmp.h>

static __thread sigjmp_buf back;

int call_and_come_back(void (*f)(void *), void *arg) {
    if (sigsetjmp(back, 1)) return 1;
    f(arg);
    return 0;
}

void leave(void) { siglongjmp(back, 1); }
