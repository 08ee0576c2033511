/* Waits around the C library: the first thread sleeps, the second waits for it at a futex, and both
 * enter the kernel by themselves. One join and one write go through the library. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PRIVATE_WAIT (FUTEX_WAIT | FUTEX_PRIVATE_FLAG)
#define PRIVATE_WAKE (FUTEX_WAKE | FUTEX_PRIVATE_FLAG)

static int turns, rounds;

static inline __attribute__((always_inline)) long enter(long n, long a, long b, long c, long d)
{
	long result;
	register long fourth __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

__attribute__((noinline)) static void hidden_wait(int seen)
{
	while (__atomic_load_n(&turns, __ATOMIC_ACQUIRE) == seen)
		enter(SYS_futex, (long)&turns, PRIVATE_WAIT, seen, 0);
}

__attribute__((noinline)) static void hidden_wake(void)
{
	__atomic_add_fetch(&turns, 1, __ATOMIC_RELEASE);
	enter(SYS_futex, (long)&turns, PRIVATE_WAKE, 1, 0);
}

__attribute__((noinline)) static void hidden_sleep(void)
{
	struct timespec time = {0, 100 * 1000};
	enter(SYS_nanosleep, (long)&time, 0, 0, 0);
}

static void *follow(void *unused)
{
	(void)unused;
	for (int seen = 0; seen < rounds; seen++)
		hidden_wait(seen);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	rounds = argc > 1 ? atoi(argv[1]) : 2000;
	if (pthread_create(&thread, NULL, follow, NULL) != 0)
		return 1;
	pthread_setname_np(thread, "follower");
	for (int i = 0; i < rounds; i++) {
		hidden_sleep();
		hidden_wake();
	}
	pthread_join(thread, NULL);
	return write(1, "done\n", 5) != 5;
}
