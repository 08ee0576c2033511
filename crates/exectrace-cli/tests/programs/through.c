/* Waits of all kinds by the C library: two threads share a lock that each holds while it sleeps, hand
 * a turn over by a condition variable and a byte by pipes; the first one writes a file, waits for the
 * disk, and reads it, and makes, renames and removes a folder. The file is the argument. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef ROUNDS
#define ROUNDS 300
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int turn, there[2], back[2];
static char page[1 << 16];

static void hold(void)
{
	struct timespec time = {0, 200 * 1000};
	pthread_mutex_lock(&lock);
	nanosleep(&time, NULL);
	pthread_mutex_unlock(&lock);
}

static void hand_over(int mine)
{
	pthread_mutex_lock(&lock);
	turn = !mine;
	pthread_cond_signal(&changed);
	while (turn != mine)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void must(int is_so)
{
	if (!is_so)
		abort();
}

static void *follow(void *unused)
{
	char byte;
	(void)unused;
	for (int i = 0; i < ROUNDS; i++) {
		hold();
		pthread_mutex_lock(&lock);
		while (turn != 1)
			pthread_cond_wait(&changed, &lock);
		turn = 0;
		pthread_cond_signal(&changed);
		pthread_mutex_unlock(&lock);
		must(read(there[0], &byte, 1) == 1);
		must(write(back[1], &byte, 1) == 1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char byte = 0, folder[4096], other[4096];
	snprintf(folder, sizeof folder, "%s.folder", argv[1]);
	snprintf(other, sizeof other, "%s.other", argv[1]);
	must(argc == 2 && pipe(there) == 0 && pipe(back) == 0);
	int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(file >= 0 && pthread_create(&thread, NULL, follow, NULL) == 0);
	for (int i = 0; i < ROUNDS; i++) {
		hold();
		hand_over(0);
		must(write(there[1], &byte, 1) == 1);
		must(read(back[0], &byte, 1) == 1);
		if (i % 20 == 0) {
			must(ftruncate(file, 0) == 0);
			must(pwrite(file, page, sizeof page, 0) == sizeof page);
			must(fsync(file) == 0);
			must(pread(file, page, sizeof page, 0) == sizeof page);
			must(mkdir(folder, 0700) == 0 && rename(folder, other) == 0);
			must(rmdir(other) == 0);
		}
	}
	pthread_join(thread, NULL);
	return write(1, "done\n", 5) != 5;
}
