/* Every way to start a program. What the child says, and what became of it, is printed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self, *fixed;

static void ended(const char *how, pid_t child) {
    int status = 0;
    pid_t r = waitpid(child, &status, 0);
    printf("%s %d %d %d\n", how, r == child, WIFEXITED(status), WEXITSTATUS(status));
    fflush(stdout);
}

/* Shells that libc starts by itself: one of `system`, two of `popen`. */
static void shells(void) {
    char line[64] = "";
    char **before = environ;
    printf("system %d %d %d\n", system("exit 3") >> 8, system(NULL) != 0, errno);
    fflush(stdout);
    FILE *in = popen("echo said; exit 4", "r");
    fgets(line, sizeof line, in);
    printf("popen %.4s %d\n", line, pclose(in) >> 8);
    fflush(stdout);
    FILE *out = popen("read word; echo $word $MARK; exit 5", "w");
    fputs("written\n", out);
    printf("popen %d %d\n", pclose(out) >> 8, before == environ);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "child")) {
        /* Its arguments and environment are what the parent gave, no more. */
        printf("child %s %s mark %s ours %d\n", argv[2], argc > 3 ? argv[argc - 1] : "-",
               getenv("MARK") ? getenv("MARK") : "-",
               getenv("EXECTRACE_PRELOAD_DIR") || getenv("LD_PRELOAD"));
        return argc;
    }
    self = argv[0], fixed = argv[1];
    char *own[] = {"MARK=own", "PATH=/usr/bin:/bin", NULL};
    char *args[] = {self, "child", "x", NULL};
    pid_t child;
    setvbuf(stdout, NULL, _IOLBF, 0);

    if ((child = fork()) == 0)
        _exit(7);
    ended("fork", child);
    if ((child = fork()) == 0)
        execve(self, args, own), _exit(9);
    ended("execve", child);
    if ((child = fork()) == 0)
        execv(self, args), _exit(9);
    ended("execv", child);
    if ((child = fork()) == 0)
        execvp(self, args), _exit(9);
    ended("execvp", child);
    if ((child = fork()) == 0)
        execl(self, self, "child", "1", "2", "3", "4", "5", "6", "7", "8", "nine", (char *)NULL),
            _exit(9);
    ended("execl", child);
    if ((child = fork()) == 0)
        execlp("true", "true", (char *)NULL), _exit(9);
    ended("execlp", child);
    if ((child = fork()) == 0)
        execle(self, self, "child", "e", "last", (char *)NULL, own), _exit(9);
    ended("execle", child);
    if ((child = vfork()) == 0) {
        execl("/no/such/program", "no", (char *)NULL);
        _exit(errno);
    }
    ended("vfork and a missing program", child);
    if ((child = vfork()) == 0) {
        execve(self, args, own);
        _exit(9);
    }
    ended("vfork", child);
    if ((child = fork()) == 0) {
        execl("/no/such/program", "no", (char *)NULL);
        printf("errno %d\n", errno);
        execl(self, self, "child", "after", (char *)NULL);
    }
    ended("a second try", child);
    int r = posix_spawn(&child, self, NULL, NULL, args, own);
    ended("posix_spawn", r ? -1 : child);
    r = posix_spawnp(&child, "true", NULL, NULL, (char *[]){"true", NULL}, environ);
    ended("posix_spawnp", r ? -1 : child);
    child = 77;
    printf("missing %d", posix_spawn(&child, "/no/such", NULL, NULL, args, own));
    printf(" %d\n", child);
    if ((child = fork()) == 0) {
        int fd = open(self, O_RDONLY | O_CLOEXEC);
        fexecve(fd, args, own), _exit(9);
    }
    ended("fexecve", child);
    if ((child = fork()) == 0)
        execl(fixed, fixed, (char *)NULL), _exit(9);
    ended("static", child);
    /* A list of variables too long for the stack, and an LD_PRELOAD of the program's own. */
    static char text[3000][16];
    static char *many[3003];
    for (int i = 0; i < 3000; i++)
        sprintf(text[i], "V%d=%d", i, i), many[i] = text[i];
    many[3000] = "MARK=many";
    if ((child = fork()) == 0)
        execve(self, args, many), _exit(9);
    ended("many", child);
    many[3000] = "LD_PRELOAD=libm.so.6";
    if ((child = fork()) == 0)
        execle("/usr/bin/env", "env", (char *)NULL, many + 2999), _exit(9);
    ended("own preload", child);
    shells();
    execve(self, args, own);
    return 1;
}
