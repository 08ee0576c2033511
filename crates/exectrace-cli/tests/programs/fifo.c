/* Reads what comes by a named pipe until it hangs there, and is killed by the thread at the other
 * end. Argument: the pipe's name. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *name;

static void must(int is_so)
{
	if (!is_so)
		abort();
}

/* Until the first thread sleeps, as the kernel says, and for a while. */
static void await_reader(void)
{
	char text[512];
	for (int seen = 0; seen < 10; usleep(1000)) {
		FILE *f = fopen("/proc/self/stat", "r");
		must(f != NULL);
		char *state = fgets(text, sizeof text, f) ? strrchr(text, ')') : NULL;
		seen = state && state[2] == 'S' ? seen + 1 : 0;
		fclose(f);
	}
}

static void *writer(void *unused)
{
	(void)unused;
	int fd = open(name, O_WRONLY);
	for (int i = 0; i < 2; i++) {
		await_reader();
		must(write(fd, "x", 1) == 1);
	}
	await_reader();
	kill(getpid(), SIGKILL);
	return NULL;
}

__attribute__((noinline)) static void drains_the_pipe(int fd)
{
	char byte;
	while (read(fd, &byte, 1) == 1)
		;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	must(argc == 2 && mkfifo(argv[1], 0600) == 0);
	name = argv[1];
	must(pthread_create(&thread, NULL, writer, NULL) == 0);
	/* Is open at once where the other end was there first. */
	int fd = open(name, O_RDONLY);
	must(fd >= 0);
	drains_the_pipe(fd);
	return 1;
}
