/* A library that is loaded late, without frame pointers. */
static volatile long sink;
__attribute__((noinline, noclone)) static long inner(void (*f)(void), long n) {
    long a = n * 3, b = n ^ sink, c = n + 7, d = n - sink, e = n * n, g = n << 3;
    f();
    return a + b * c + d * e + g;
}
void late(void (*f)(void)) { sink += inner(f, sink + 1); }
