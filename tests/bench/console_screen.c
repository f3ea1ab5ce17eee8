/*
 * A hypervisor's screens for the console proxy's measurements: VNC without a password, which answers
 * a key with two pixels, a request for updates with so many whole frames, and a text with a bell.
 *
 *   console_screen ADDRESS PORT
 */
#include "console_load.h"

struct viewer {
	int fd, step, blocked;
	long skip;                 /* bytes of a text that are still to come */
	long left, at;             /* bytes of frames that are still to go, and where */
	int have;                  /* of a message whose end has not come */
	unsigned char begun[32];
};

static unsigned char frame[FRAME];

static void tell(struct viewer *one, const void *data, int length)
{
	if (write(one->fd, data, length) != length)
		one->step = -1;
}

static void show(int poll, struct viewer *one)
{
	while (one->left > 0) {
		long most = FRAME - one->at < one->left ? FRAME - one->at : one->left;
		ssize_t sent = write(one->fd, frame + one->at, most);
		if (sent < 0) {
			if (errno != EAGAIN)
				one->step = -1;
			else if (!one->blocked)
				watch(poll, one->fd, one, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
			one->blocked = errno == EAGAIN;
			return;
		}
		one->at = (one->at + sent) % FRAME;
		one->left -= sent;
	}
	if (one->blocked)
		watch(poll, one->fd, one, EPOLLIN, EPOLL_CTL_MOD);
	one->blocked = 0;
}

/* How long the next thing is that a viewer says. */
static int expected(const struct viewer *one)
{
	static const int handshake[] = {12, 1, 1};
	if (one->step < 3)
		return handshake[one->step];
	if (!one->have)
		return 1;
	switch (one->begun[0]) {
	case 3: return 10;
	case 4: return 8;
	case 6: return 8;
	default: return 1;
	}
}

static void heard(int poll, struct viewer *one)
{
	static unsigned char init[24 + 5] = {WIDTH >> 8, WIDTH & 255, HEIGHT >> 8, HEIGHT & 255, 32, 24, 0,
		1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 0, 0, 0, 5, 'b', 'e', 'n', 'c', 'h'};
	static const unsigned char answer[ANSWER] = {0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1};
	if (one->step == 0)
		tell(one, "\1\1", 2);
	else if (one->step == 1)
		tell(one, "\0\0\0\0", 4);
	else if (one->step == 2)
		tell(one, init, sizeof init);
	if (one->step < 3) {
		one->step += one->step >= 0;
		return;
	}
	switch (one->begun[0]) {
	case 3:
		if (!one->begun[1]) {
			unsigned count = one->begun[2] << 8 | one->begun[3];
			one->left = count == ENDLESS ? INT64_MAX / 2 : (long)count * FRAME;
			show(poll, one);
		}
		break;
	case 4:
		tell(one, answer, sizeof answer);
		break;
	case 6:
		one->skip = (long)one->begun[4] << 24 | one->begun[5] << 16 | one->begun[6] << 8 | one->begun[7];
		break;
	}
}

static int hear(int poll, struct viewer *one)
{
	ssize_t count = read(one->fd, piece, sizeof piece);
	if (count <= 0)
		return count < 0 && errno == EAGAIN;
	for (ssize_t at = 0; at < count && one->step >= 0;) {
		if (one->skip) {
			long step = count - at < one->skip ? count - at : one->skip;
			at += step;
			one->skip -= step;
			if (!one->skip)
				tell(one, "\2", 1);
			continue;
		}
		one->begun[one->have++] = piece[at++];
		if (one->have >= expected(one)) {
			heard(poll, one);
			one->have = 0;
		}
	}
	return one->step >= 0;
}

static void serve(const char *host, const char *port)
{
	struct sockaddr_in place = address(host, port);
	int one = 1, poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&place, sizeof place) < 0 || listen(listener, 4096) < 0)
		die("listen");
	put16(frame + 2, 1);
	put16(frame + 8, WIDTH);
	put16(frame + 10, HEIGHT);
	srandom(1);
	for (int at = 16; at < FRAME; at++)
		frame[at] = random();
	watch(poll, listener, NULL, EPOLLIN, EPOLL_CTL_ADD);
	for (;;) {
		struct epoll_event events[256];
		int count = epoll_wait(poll, events, 256, -1);
		for (int n = 0; n < count; n++) {
			struct viewer *who = events[n].data.ptr;
			if (!who) {
				int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (fd < 0)
					continue;
				quick(fd);
				who = calloc(1, sizeof *who);
				who->fd = fd;
				watch(poll, fd, who, EPOLLIN, EPOLL_CTL_ADD);
				tell(who, "RFB 003.008\n", 12);
				continue;
			}
			if (events[n].events & EPOLLOUT)
				show(poll, who);
			if (who->step < 0 || ((events[n].events & ~EPOLLOUT) && !hear(poll, who))) {
				close(who->fd);
				free(who);
			}
		}
	}
}

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	serve(words[1], words[2]);
}
