/* A child that shares its parent's memory: runs f, then executes path, or leaves where that fails
   or there is none. Gives the child's exit status. */
#include <sys/wait.h>
#include <unistd.h>

int vfork_and(void (*f)(void *), void *arg, const char *path) {
    pid_t child = vfork();
    if (child == 0) {
        f(arg);
        if (path) execl(path, path, (char *)0);
        _exit(7);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}
