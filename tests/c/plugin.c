/* Calls f at the bottom of depth frames of this library. */
void call(void (*f)(void *), void *arg, int depth) {
    if (depth > 0) call(f, arg, depth - 1);
    else f(arg);
    __asm__ volatile("");
}
