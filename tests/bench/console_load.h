/* What screens and browsers of the console's measurements share. */
#ifndef CONSOLE_LOAD_H
#define CONSOLE_LOAD_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 1024, HEIGHT = 768, FRAME = 16 + 4 * WIDTH * HEIGHT, ANSWER = 24 };
enum { PIECE = 256 * 1024, ENDLESS = 0xffff };

static unsigned char piece[PIECE];

static void die(const char *what)
{
	fprintf(stderr, "console_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	if (inet_pton(AF_INET, text, &made.sin_addr) != 1)
		die(text);
	return made;
}

static void quick(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void watch(int poll, int fd, void *what, uint32_t events, int how)
{
	struct epoll_event event = {.events = events, .data.ptr = what};
	if (epoll_ctl(poll, how, fd, &event) < 0)
		die("epoll_ctl");
}

static void put16(unsigned char *at, unsigned value) { at[0] = value >> 8; at[1] = value; }

#endif
