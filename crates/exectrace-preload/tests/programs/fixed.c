/* Linked statically: nothing can be loaded into it. */
#include <stdio.h>

int main(void) { return puts("static"), 4; }
