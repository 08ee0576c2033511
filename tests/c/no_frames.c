/* Calls f while its own numbers stand in all registers that a callee keeps, the frame pointer's
   among them. Built with -fomit-frame-pointer. */
typedef unsigned long word;

word no_frames(void (*f)(void), word a, word b, word c, word d) {
    word e = a * b, g = c * d;
    f();
    return a + 3 * b + 5 * c + 7 * d + 11 * e + 13 * g;
}
