/* Streams of the C library: reads that sleep, writes that the buffer holds or does not, and streams
 * that have no descriptor. Each part has a pipe of its own; the test knows which calls enter the
 * kernel. */
#include "held.h"
#include <stdarg.h>
#include <sys/wait.h>

static FILE *in, *cookie;
static int nested[2];
static char long_text[4001];

static FILE *stream(const char *name, int how) {
    int fds[2];
    if (pipe(fds))
        exit(3);
    printf("%s %d\n", name, fds[1]);
    FILE *f = fdopen(fds[1], "w");
    setvbuf(f, NULL, how, 4096);
    /* The buffer is made at the first write, and the reader's end stays open. */
    putc('.', f), fflush(f);
    return f;
}

static void *reader(void *p) {
    char text[64] = "", *line = NULL;
    size_t room = 0;
    int number = 0, r = -1;
    thread_id = my_tid();
    switch ((int)(intptr_t)p) {
    case 0: r = fgets(text, sizeof text, in) != NULL; break;
    case 1: r = (int)fread(text, 1, 12, in); break;
    case 2: r = getc(in); break;
    case 3: r = (int)getline(&line, &room, in); break;
    case 4: r = fscanf(in, "number %d", &number); break;
    case 5: r = (int)fread(text, 1, 12, cookie); break;
    /* With something in the buffer, where no other thread may look whether that is a line. */
    case 6: r = fgets(text, sizeof text, in) != NULL; break;
    }
    printf("read %d: %d %s %s %d\n", (int)(intptr_t)p, r, text, line ? line : "", number);
    free(line);
    return NULL;
}

static ssize_t of_cookie(void *p, char *to, size_t n) {
    return read(*(int *)p, to, n < 12 ? n : 12);
}

static void reads(void) {
    cookie_io_functions_t functions = {.read = of_cookie};
    if (pipe(nested))
        exit(3);
    cookie = fopencookie(nested, "r", functions);
    for (int i = 0; i < 7; i++) {
        int fds[2];
        pthread_t t;
        if (pipe(fds))
            exit(3);
        in = fdopen(fds[0], "r");
        printf("reads%d %d\n", i, i == 5 ? nested[0] : fds[0]);
        if (i == 6) {
            (void)!write(fds[1], "abc", 3);
            printf("%c\n", getc(in));
        }
        pthread_create(&t, NULL, reader, (void *)(intptr_t)i);
        await_sleep();
        (void)!write(i == 5 ? nested[1] : fds[1], "number 1234\n", 12);
        pthread_join(t, NULL);
        if (i == 0) {
            /* The buffer serves what is there, and the kernel is asked for the rest. */
            (void)!write(fds[1], "one\ntwo\nthr", 11);
            char text[64];
            printf("%s", fgets(text, sizeof text, in));
            printf("%s", fgets(text, sizeof text, in));
            printf("%c\n", getc(in));
        }
    }
}

static void out(FILE *f, const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("v %d\n", vfprintf(f, format, list));
    va_end(list);
}

static void writes(void) {
    FILE *f = stream("unbuffered", _IONBF);
    fputs("text", f), putc('c', f), fwrite("abc", 1, 3, f), fprintf(f, "%d", 12), out(f, "%d", 3);
    fputs("", f), fflush(f);

    f = stream("lines", _IOLBF);
    fputs("be", f), putc('g', f), fputs("in", f), fprintf(f, " %d", 1);
    fputs(" end\n", f);
    fprintf(f, "%d\n", 12), fwrite("a\n", 1, 2, f), putc('\n', f);

    f = stream("full", _IOFBF);
    for (int i = 0; i < 500; i++)
        putc('c', f), fputs("ab", f), fwrite("abc", 1, 3, f), fprintf(f, "%d", 12);
    /* 4000 of 4096: this one writes. */
    fprintf(f, "%.3000s", long_text);
    fflush(f), fflush(f);
    /* More than has room, after ample room. */
    fprintf(f, "%.3000s", long_text), fprintf(f, "%.3000s", long_text);
    fclose(f);

    /* Longer than any before, and more than has room. */
    f = stream("longer", _IOFBF);
    for (int i = 0; i < 200; i++)
        putc('c', f);
    fprintf(f, "%s", long_text), fclose(f);

    f = stream("closed", _IOFBF);
    fputs("text", f), fclose(f);

    int fds[2];
    if (pipe(fds))
        exit(3);
    printf("direct %d\n", fds[1]);
    printf("dprintf %d\n", dprintf(fds[1], "%d %s %g", 12, "abc", 1.5));
}

int main(int argc, char **argv) {
    char text[64] = "", *memory = NULL;
    size_t n = 0;
    (void)argc;
    memset(long_text, 'x', 4000);
    reads();
    writes();
    printf("%d %d %d %d %d %d %d %d %ld\n", 1, 2, 3, 4, 5, 6, 7, 8, -9L);
    printf("%g %g %g %g %g %g %g %g %g %g\n", .1, .2, .3, .4, .5, .6, .7, .8, .9, 1.25);
    printf("%d %g %s %Lg %c %g %d %g %d %g %d %g %d %g %d %g %d %g %d %g\n", 1, 1.5, "s",
           (long double)2.5L, 'c', 1.5, 1, 2.5, 2, 3.5, 3, 4.5, 4, 5.5, 5, 6.5, 6, 7.5, 7, 8.5);
    fprintf(stdout, "%s %d %d %d %d %d %g\n", "f", 1, 2, 3, 4, 5, 1.5);
    int a, b, c, d, e;
    double g;
    FILE *m = fmemopen("1 2 3 4 5 1.5", 13, "r");
    printf("%d", fscanf(m, "%d %d %d %d %d %lf", &a, &b, &c, &d, &e, &g));
    printf(" %d %d %d %d %d %g\n", a, b, c, d, e, g);
    fclose(m);
    m = open_memstream(&memory, &n);
    fprintf(m, "in memory"), fclose(m);
    printf("%s %zu\n", memory, n);

    FILE *f = fopen(argv[1], "w+");
    printf("named %d\n", fileno(f));
    fputs("0123456789", f);
    printf("seek %d\n", fseek(f, 4, SEEK_SET));
    printf("read %zu %s\n", fread(text, 1, 4, f), text);
    int gone = fopen("/no/such/file", "r") == NULL;
    printf("gone %d %d\n", gone, errno);
    fclose(f), unlink(argv[1]);
    FILE *shell = popen("exec sleep 0.05", "r");
    printf("shell %d\n", pclose(shell));
    printf("flush %d\n", fflush(NULL));
    return 0;
}
