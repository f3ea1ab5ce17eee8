/*
 * Browsers for the console proxy's measurements, quick enough to be never what one waits for: one
 * thread and epoll, and frames that are made before they are sent.
 *
 *   console_browsers ADDRESS PORT SESSIONS THREADS [ws] [tls] [frame] [secret] < secrets, commands
 *
 * It reads a secret for each session where the proxy wants one (`secret`), opens all sessions (and
 * waits for a whole frame of each, `frame`), says so in a line of JSON, and then does what each
 * further line asks for, with a line of JSON for each. Without `ws` it speaks RFB alone, as a relay
 * of TCP passes it on.
 *
 * OpenSSL's headers are a package of their own; the few functions are declared here.
 */
#include "console_load.h"

#include <pthread.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;
const SSL_METHOD *TLS_client_method(void);
SSL_CTX *SSL_CTX_new(const SSL_METHOD *);
long SSL_CTX_ctrl(SSL_CTX *, int, long, void *);
int SSL_CTX_set_ciphersuites(SSL_CTX *, const char *);
SSL *SSL_new(SSL_CTX *);
int SSL_set_fd(SSL *, int);
int SSL_connect(SSL *);
int SSL_read(SSL *, void *, int);
int SSL_write(SSL *, const void *, int);
int SSL_get_error(const SSL *, int);
enum { CTRL_MODE = 33, PARTIAL_WRITES = 1, MOVING_BUFFER = 2, WANT_READ = 2, WANT_WRITE = 3 };

enum { TEXT = 1024 * 1024, SLOWEST = 4000000 };

struct browser {
	int fd, number, dead, waits;
	SSL *ssl;
	char secret[64];
	unsigned char head[14];    /* of a frame whose payload has not begun */
	int head_have, control;
	uint64_t left;             /* bytes of a frame that are still to come */
	uint64_t came;             /* bytes of RFB since it was asked for something */
	long sent;                 /* bytes of what is uploaded */
	double asked, took;
};

static struct sockaddr_in proxy;
static int sessions, threads, with_ws, with_tls, with_frame, with_secret, poller, dead;
static struct browser *browsers;
static SSL_CTX *context;
static unsigned *histogram;

static ssize_t take(struct browser *one, void *data, int most)
{
	ssize_t count = one->ssl ? SSL_read(one->ssl, data, most) : read(one->fd, data, most);
	if (one->ssl && count <= 0) {
		int why = SSL_get_error(one->ssl, count);
		errno = why == WANT_READ || why == WANT_WRITE ? EAGAIN : EIO;
		return errno == EAGAIN ? -1 : 0;
	}
	return count;
}

static ssize_t give(struct browser *one, const void *data, int length)
{
	ssize_t count = one->ssl ? SSL_write(one->ssl, data, length) : write(one->fd, data, length);
	if (one->ssl && count <= 0) {
		int why = SSL_get_error(one->ssl, count);
		errno = why == WANT_READ || why == WANT_WRITE ? EAGAIN : EIO;
		return -1;
	}
	return count;
}

static void lose(struct browser *one)
{
	if (!one->dead)
		__atomic_add_fetch(&dead, 1, __ATOMIC_RELAXED);
	one->dead = 1;
	if (poller)
		epoll_ctl(poller, EPOLL_CTL_DEL, one->fd, NULL);
}

/* A small message: RFB, in a masked frame where there are frames. */
static int frame_of(unsigned char *into, int kind, const void *data, int length)
{
	static const unsigned char mask[4] = {0x11, 0x82, 0x33, 0xc4};
	if (!with_ws) {
		memcpy(into, data, length);
		return length;
	}
	int at = 0;
	into[at++] = 0x80 | kind;
	if (length < 126) {
		into[at++] = 0x80 | length;
	} else {
		into[at++] = 0x80 | 126;
		put16(into + at, length);
		at += 2;
	}
	memcpy(into + at, mask, 4);
	at += 4;
	for (int n = 0; n < length; n++)
		into[at + n] = ((const unsigned char *)data)[n] ^ mask[n & 3];
	return at + length;
}

static void say(struct browser *one, int kind, const void *data, int length)
{
	unsigned char made[256];
	int size = frame_of(made, kind, data, length);
	if (!one->dead && give(one, made, size) != size)
		lose(one);
}

/* Step over frames' headers; payload goes to `into` where it is given. Returns bytes of payload. */
static long unframe(struct browser *one, const unsigned char *data, long length, unsigned char *into)
{
	if (!with_ws) {
		if (into)
			memcpy(into, data, length);
		return length;
	}
	long payload = 0;
	for (long at = 0; at < length;) {
		if (one->left) {
			long step = length - at < (long)one->left ? length - at : (long)one->left;
			if (!one->control) {
				if (into)
					memcpy(into + payload, data + at, step);
				payload += step;
			}
			at += step;
			one->left -= step;
			continue;
		}
		one->head[one->head_have++] = data[at++];
		int whole = 2, size = one->head[1] & 127;
		if (one->head_have < 2)
			continue;
		whole += size == 126 ? 2 : size == 127 ? 8 : 0;
		if (one->head_have < whole)
			continue;
		one->left = size;
		if (size > 125) {
			one->left = 0;
			for (int n = 2; n < whole; n++)
				one->left = one->left << 8 | one->head[n];
		}
		one->head_have = 0;
		one->control = (one->head[0] & 15) >= 8;
		if ((one->head[0] & 15) == 9)
			say(one, 10, "", 0);
		if ((one->head[0] & 15) == 8)
			lose(one);
	}
	return payload;
}

static unsigned char asking[10] = {3};

static void ask_frames(struct browser *one, int count)
{
	put16(asking + 2, count);
	put16(asking + 6, WIDTH);
	put16(asking + 8, HEIGHT);
	one->came = 0;
	say(one, 2, asking, sizeof asking);
}

struct opening {
	struct browser *one;
	unsigned char payload[8192];
	long have;
};

static int more(struct opening *open)
{
	unsigned char raw[2048];
	ssize_t count = take(open->one, raw, sizeof raw);
	if (count <= 0)
		return 0;
	open->have += unframe(open->one, raw, count, open->payload + open->have);
	return 1;
}

static int need(struct opening *open, long count)
{
	while (open->have < count)
		if (open->have > 4096 || !more(open))
			return 0;
	open->have -= count;
	memmove(open->payload, open->payload + count, open->have);
	return 1;
}

static int upgrade(struct opening *open)
{
	struct browser *one = open->one;
	char text[2048];
	int size = snprintf(text, sizeof text,
		"GET /socket HTTP/1.1\r\nHost: console.example\r\nOrigin: https://console.example\r\n"
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary%s%s\r\n\r\n",
		with_secret ? ", secret." : "", one->secret);
	if (give(one, text, size) != size)
		return 0;
	for (int have = 0; have < (int)sizeof text - 1;) {
		ssize_t count = take(one, text + have, sizeof text - 1 - have);
		if (count <= 0)
			return 0;
		have += count;
		text[have] = 0;
		char *end = strstr(text, "\r\n\r\n");
		if (!end)
			continue;
		if (strncmp(text, "HTTP/1.1 101", 12))
			return 0;
		end += 4;
		open->have = unframe(one, (unsigned char *)end, text + have - end, open->payload);
		return 1;
	}
	return 0;
}

static int enter(struct browser *one)
{
	struct opening open = {.one = one};
	struct timeval patience = {.tv_sec = 30};
	double begun = now();
	one->fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(one->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (connect(one->fd, (struct sockaddr *)&proxy, sizeof proxy) < 0)
		return 0;
	quick(one->fd);
	if (with_tls) {
		one->ssl = SSL_new(context);
		SSL_set_fd(one->ssl, one->fd);
		if (SSL_connect(one->ssl) != 1)
			return 0;
	}
	if (with_ws && !upgrade(&open))
		return 0;
	if (!need(&open, 12))
		return 0;
	say(one, 2, "RFB 003.008\n", 12);
	if (!need(&open, 2))
		return 0;
	say(one, 2, "\1", 1);
	if (!need(&open, 4))
		return 0;
	say(one, 2, "\1", 1);
	if (!need(&open, 24 + 5))
		return 0;
	if (with_frame) {
		unsigned char *into = malloc(PIECE);
		long came = 0;
		ask_frames(one, 1);
		while (came < FRAME) {
			ssize_t count = take(one, into, PIECE);
			if (count <= 0)
				return 0;
			came += unframe(one, into, count, NULL);
		}
		free(into);
	}
	one->took = now() - begun;
	return !one->dead;
}

static void *enter_some(void *first)
{
	for (long n = (long)first; n < sessions; n += threads)
		if (!enter(&browsers[n]))
			lose(&browsers[n]);
	return NULL;
}

static int by_time(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void enter_all(void)
{
	pthread_t running[64];
	double begun = now();
	for (long n = 0; n < threads; n++)
		pthread_create(&running[n], NULL, enter_some, (void *)n);
	for (int n = 0; n < threads; n++)
		pthread_join(running[n], NULL);
	if (dead)
		fprintf(stderr, "console_load: %d of %d sessions do not open\n", dead, sessions);
	double seconds = now() - begun, *took = malloc(sessions * sizeof *took);
	for (int n = 0; n < sessions; n++)
		took[n] = browsers[n].took;
	qsort(took, sessions, sizeof *took, by_time);
	printf("{\"opened\": %d, \"seconds\": %.6f, \"p50\": %.6f, \"p99\": %.6f}\n", sessions - dead,
		seconds, took[sessions / 2], took[sessions * 99 / 100]);
	fflush(stdout);
	free(took);
	poller = epoll_create1(0);
	for (int n = 0; n < sessions; n++) {
		if (browsers[n].dead)
			continue;
		fcntl(browsers[n].fd, F_SETFL, O_NONBLOCK);
		watch(poller, browsers[n].fd, &browsers[n], EPOLLIN, EPOLL_CTL_ADD);
	}
}

/* Read what there is for a browser; TLS may have more than the kernel knows of. */
static void listen_to(struct browser *one)
{
	ssize_t count;
	while (!one->dead && (count = take(one, piece, sizeof piece)) >= 0) {
		if (!count)
			lose(one);
		one->came += unframe(one, piece, count, NULL);
		if (!one->ssl && count < PIECE)
			return;
	}
}

static void wait_for(double until, struct epoll_event *events, int *count)
{
	double left = until - now();
	struct timespec pause = {.tv_sec = left > 0 ? left : 0};
	pause.tv_nsec = left > 0 ? (left - pause.tv_sec) * 1e9 : 0;
	*count = epoll_pwait2(poller, events, 256, &pause, NULL);
}

static void key(struct browser *one, double at)
{
	static const unsigned char event[8] = {4, 1, 0, 0, 0, 0, 0, 'a'};
	one->asked = at;
	one->came = 0;
	one->waits = 1;
	say(one, 2, event, sizeof event);
}

/* Keys: as quickly as answers come (rate 0), or so many a second of each. */
static void keys(double seconds, double rate)
{
	double begun = now(), end = begun + seconds, grace = end + 5;
	long trips = 0, asked = 0, late = 0, out = 0;
	memset(histogram, 0, SLOWEST * sizeof *histogram);
	if (!rate)
		for (int n = 0; n < sessions; n++) {
			key(&browsers[n], now());
			out++;
		}
	while (now() < end || (out > 0 && now() < grace)) {
		struct epoll_event events[256];
		double due = end;
		int count;
		while (rate && (due = begun + asked / (rate * sessions)) < end && due <= now()) {
			struct browser *one = &browsers[asked++ % sessions];
			if (one->waits)
				late++;
			else if (!one->dead) {
				key(one, due);
				out++;
			}
		}
		wait_for(due < end ? due : now() < end ? end : grace, events, &count);
		for (int n = 0; n < count; n++) {
			struct browser *one = events[n].data.ptr;
			listen_to(one);
			if (!one->waits || one->came < ANSWER)
				continue;
			double at = now();
			long micro = (at - one->asked) * 1e6;
			histogram[micro < SLOWEST ? micro : SLOWEST - 1]++;
			one->waits = 0;
			out--;
			trips++;
			if (!rate && at < end) {
				key(one, at);
				out++;
			}
		}
	}
	long seen = 0, p50 = -1, p99 = -1;
	for (long n = 0; n < SLOWEST; n++) {
		seen += histogram[n];
		if (p50 < 0 && seen * 2 >= trips)
			p50 = n;
		if (p99 < 0 && seen * 100 >= trips * 99)
			p99 = n;
	}
	printf("{\"trips\": %ld, \"seconds\": %.6f, \"p50\": %.6f, \"p99\": %.6f, \"late\": %ld, "
		"\"lost\": %ld, \"dead\": %d}\n", trips, seconds, p50 / 1e6, p99 / 1e6, late, out, dead);
}

/* Frames to the first browser. */
static void down(int frames)
{
	struct browser *one = &browsers[0];
	uint64_t whole = (uint64_t)frames * FRAME;
	double begun = now();
	struct epoll_event events[256];
	int count;
	ask_frames(one, frames);
	while (one->came < whole && !one->dead && now() < begun + 120) {
		wait_for(begun + 120, events, &count);
		for (int n = 0; n < count; n++)
			listen_to(events[n].data.ptr);
	}
	printf("{\"bytes\": %lu, \"seconds\": %.6f, \"dead\": %d}\n", one->came, now() - begun, dead);
}

/* Texts of all browsers at once, so many of 1 MiB each, in frames of so many bytes. */
static void up(int texts, int size)
{
	unsigned char *plain = calloc(1, TEXT), *made = malloc(TEXT + TEXT / size * 16 + 64);
	long length = 0, out = 0;
	int text = TEXT - 8;
	plain[0] = 6;
	put16(plain + 4, text >> 16);
	put16(plain + 6, text & 0xffff);
	memset(plain + 8, 'x', text);
	for (int at = 0; at < TEXT; at += size)
		length += frame_of(made + length, 2, plain + at, TEXT - at < size ? TEXT - at : size);
	double begun = now();
	for (int n = 0; n < sessions; n++) {
		browsers[n].sent = browsers[n].came = 0;
		browsers[n].waits = !browsers[n].dead;
		out += !browsers[n].dead;
		if (!browsers[n].dead)
			watch(poller, browsers[n].fd, &browsers[n], EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
	}
	while (out > 0 && now() < begun + 120) {
		struct epoll_event events[256];
		int count;
		wait_for(begun + 120, events, &count);
		for (int n = 0; n < count; n++) {
			struct browser *one = events[n].data.ptr;
			while (one->sent < texts * length && !one->dead) {
				long at = one->sent % length, most = length - at < 65536 ? length - at : 65536;
				ssize_t sent = give(one, made + at, most);
				if (sent < 0) {
					if (errno != EAGAIN)
						lose(one);
					break;
				}
				one->sent += sent;
			}
			if (one->sent >= texts * length && !one->dead && one->waits == 1) {
				watch(poller, one->fd, one, EPOLLIN, EPOLL_CTL_MOD);
				one->waits = 2;
			}
			if (events[n].events & EPOLLIN)
				listen_to(one);
			if (one->waits && (one->came >= (uint64_t)texts || one->dead)) {
				one->waits = 0;
				out--;
			}
		}
	}
	printf("{\"bytes\": %ld, \"seconds\": %.6f, \"unanswered\": %ld, \"dead\": %d}\n",
		(long)TEXT * texts * sessions, now() - begun, out, dead);
	free(plain);
	free(made);
}

/* Do what a line asks for, and answer pings until the next one comes. */
static int obey(void)
{
	char line[128];
	double a = 0, b = 0;
	static const struct browser *none = NULL;
	watch(poller, 0, (void *)none, EPOLLIN, EPOLL_CTL_ADD);
	for (int asked = 0; !asked;) {
		struct epoll_event events[256];
		int count = epoll_wait(poller, events, 256, -1);
		for (int n = 0; n < count; n++) {
			if (events[n].data.ptr)
				listen_to(events[n].data.ptr);
			else
				asked = 1;
		}
	}
	epoll_ctl(poller, EPOLL_CTL_DEL, 0, NULL);
	if (!fgets(line, sizeof line, stdin))
		return 0;
	if (sscanf(line, "keys %lf %lf", &a, &b) == 2)
		keys(a, b);
	else if (sscanf(line, "down %lf", &a) == 1)
		down(a);
	else if (sscanf(line, "up %lf %lf", &a, &b) == 2)
		up(a, b);
	else if (!strncmp(line, "stall", 5)) {
		epoll_ctl(poller, EPOLL_CTL_DEL, browsers[0].fd, NULL);
		ask_frames(&browsers[0], ENDLESS);
		printf("{}\n");
	} else if (!strncmp(line, "alive", 5)) {
		printf("{\"dead\": %d}\n", dead);
	} else {
		return 0;
	}
	fflush(stdout);
	return 1;
}

int main(int count, char **words)
{
	signal(SIGPIPE, SIG_IGN);
	if (count < 5)
		return 2;
	proxy = address(words[1], words[2]);
	sessions = atoi(words[3]);
	threads = atoi(words[4]);
	for (int n = 5; n < count; n++) {
		with_ws |= !strcmp(words[n], "ws");
		with_tls |= !strcmp(words[n], "tls");
		with_frame |= !strcmp(words[n], "frame");
		with_secret |= !strcmp(words[n], "secret");
	}
	if (with_tls) {
		context = SSL_CTX_new(TLS_client_method());
		/* as browsers do, which like AES with 128 bits best */
		SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
		SSL_CTX_ctrl(context, CTRL_MODE, PARTIAL_WRITES | MOVING_BUFFER, NULL);
	}
	setvbuf(stdin, NULL, _IONBF, 0); /* what epoll does not know of would wait */
	browsers = calloc(sessions, sizeof *browsers);
	histogram = calloc(SLOWEST, sizeof *histogram);
	for (int n = 0; n < sessions && with_secret; n++)
		if (scanf("%63s", browsers[n].secret) != 1 || getchar() != '\n')
			die("a secret is missing");
	enter_all();
	while (obey())
		;
	return 0;
}
