/* A function of a library that calls back; ID makes two libraries of the same form. */
unsigned long through(void (*f)(unsigned long), unsigned long n) {
    f(n);
    return n + ID;
}
