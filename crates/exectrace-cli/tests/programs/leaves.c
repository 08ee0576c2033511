/* Leaves a process behind and ends at once: nothing waits for that process to begin. It stays until
 * somebody writes to the pipe `go`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int stay(void) {
    char byte;
    int go = open("go", O_RDONLY);
    return go < 0 || read(go, &byte, 1) != 1;
}

int main(int argc, char **argv) {
    char *again[] = {argv[0], "stay", NULL};
    const char *how = argc > 1 ? argv[1] : "";
    if (!strcmp(how, "stay"))
        return stay();
    if (!strcmp(how, "daemon"))
        return daemon(1, 0) ? 1 : stay();
    if (!strcmp(how, "spawn")) {
        pid_t child;
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        for (int fd = 0; fd < 3; fd++)
            posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
        _exit(posix_spawn(&child, argv[0], &actions, NULL, again, environ) != 0);
    }
    if (!strcmp(how, "vfork")) {
        int null = open("/dev/null", O_RDWR);
        pid_t child = vfork();
        if (!child) {
            for (int fd = 0; fd < 3; fd++)
                dup2(null, fd);
            execve(argv[0], again, environ);
            _exit(1);
        }
        _exit(child < 0);
    }
    return 2;
}
