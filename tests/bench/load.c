/* A closed-loop HTTP/1.1 load generator: so many connections, each with one request under way.
 *
 *   load PORT CONNECTIONS WARMUP_S MEASURE_S FIRST_NUMBER < requests
 *
 * Requests come in whole, each behind its length as a little-endian uint32, and are sent in turn. Wherever one holds
 * ######## a number is written that no other place gets, so that no two rows are equal. What is counted begins after
 * the warm-up. One line of JSON comes out; times are microseconds, cpu_s is what this program itself used meanwhile.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MARK = 8, ANSWER_BYTES = 1 << 20, MOST_CONNECTIONS = 4096 };

struct request { char *text; size_t size, marks; size_t *places; };
struct connection { char *text, *answer; size_t text_size, sent, received; double since; };

static struct request *requests;
static size_t request_count, next_request;
static uint64_t number;
static struct sockaddr_in address;
static struct pollfd fds[MOST_CONNECTIONS];
static struct connection connections[MOST_CONNECTIONS];
static double counted_from, end;
static uint32_t *latencies;
static size_t answered, latency_room, by_class[6], broken;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what) { perror(what); exit(1); }

static void *room(void *old, size_t size) {
    void *got = realloc(old, size);
    if (!got) fail("memory");
    return got;
}

static void read_requests(void) {
    uint32_t size;
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        requests = room(requests, (request_count + 1) * sizeof *requests);
        struct request *one = &requests[request_count++];
        memset(one, 0, sizeof *one);
        one->size = size;
        one->text = room(NULL, size + 1);
        one->text[size] = 0;
        if (fread(one->text, 1, size, stdin) != size) fail("requests");
        for (char *at = one->text; (at = strstr(at, "########")); at += MARK) {
            one->places = room(one->places, (one->marks + 1) * sizeof *one->places);
            one->places[one->marks++] = at - one->text;
        }
    }
    if (!request_count) { fputs("no requests\n", stderr); exit(1); }
}

static void open_connection(int i) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fds[i].fd = fd;
}

static void begin(int i) {
    struct connection *c = &connections[i];
    struct request *one = &requests[next_request];
    next_request = (next_request + 1) % request_count;
    c->text = room(c->text, one->size);
    c->text_size = one->size;
    memcpy(c->text, one->text, one->size);
    for (size_t m = 0; m < one->marks; m++) {
        uint64_t rest = number++;
        for (int digit = MARK - 1; digit >= 0; digit--, rest /= 10) c->text[one->places[m] + digit] = '0' + rest % 10;
    }
    c->sent = c->received = 0;
    c->since = now();
    fds[i].events = POLLOUT | POLLIN;
}

/* Returns the length of the whole answer, or 0 while its head is not complete. */
static size_t answer_size(struct connection *c, size_t *body_at) {
    c->answer[c->received] = 0;
    char *blank = strstr(c->answer, "\r\n\r\n");
    if (!blank) return 0;
    *body_at = blank + 4 - c->answer;
    for (char *line = strstr(c->answer, "\r\n"); line && line < blank; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, "content-length:", 15)) return *body_at + strtoul(line + 17, NULL, 10);
    fputs("an answer has no Content-Length\n", stderr);
    exit(1);
}

static void reopen(int i) {
    if (now() > counted_from) broken++;
    close(fds[i].fd);
    open_connection(i);
    begin(i);
}

static void count_answer(struct connection *c) {
    double at = now();
    if (c->since < counted_from || at > end) return;
    int kind = c->answer[9] - '0';
    by_class[kind >= 1 && kind <= 5 ? kind : 0]++;
    if (answered == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        latencies = room(latencies, latency_room * sizeof *latencies);
    }
    latencies[answered++] = (uint32_t)((at - c->since) * 1e6);
}

static void serve(int i) {
    struct connection *c = &connections[i];
    if (c->sent < c->text_size) {
        ssize_t sent = send(fds[i].fd, c->text + c->sent, c->text_size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) { reopen(i); return; }
        if (sent > 0) c->sent += sent;
        if (c->sent == c->text_size) fds[i].events = POLLIN;
    }
    if (!(fds[i].revents & (POLLIN | POLLHUP | POLLERR))) return;
    ssize_t got = recv(fds[i].fd, c->answer + c->received, ANSWER_BYTES - 1 - c->received, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { reopen(i); return; }
    c->received += got;
    size_t body_at, size = answer_size(c, &body_at);
    if (size >= ANSWER_BYTES) { fputs("an answer is too long\n", stderr); exit(1); }
    if (!size || c->received < size) return;
    count_answer(c);
    begin(i);
    fds[i].revents = 0;
    serve(i);
}

static int by_size(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static unsigned share(double part) { return answered ? latencies[(size_t)(part * (answered - 1))] : 0; }

int main(int argc, char **argv) {
    if (argc != 6) { fputs("load PORT CONNECTIONS WARMUP_S MEASURE_S FIRST_NUMBER < requests\n", stderr); return 2; }
    int count = atoi(argv[2]);
    if (count < 1 || count > MOST_CONNECTIONS) { fputs("too many connections\n", stderr); return 2; }
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    number = strtoull(argv[5], NULL, 10);
    read_requests();
    for (int i = 0; i < count; i++) {
        connections[i].answer = room(NULL, ANSWER_BYTES);
        open_connection(i);
    }
    counted_from = now() + atof(argv[3]);
    end = counted_from + atof(argv[4]);
    for (int i = 0; i < count; i++) { begin(i); fds[i].revents = 0; serve(i); }
    double used_before = 0;
    int warm = 0;
    while (now() < end) {
        if (!warm && now() >= counted_from) { warm = 1; used_before = cpu(); }
        if (poll(fds, count, 100) < 0 && errno != EINTR) fail("poll");
        for (int i = 0; i < count; i++) if (fds[i].revents) serve(i);
    }
    double used = cpu() - used_before;
    if (answered) qsort(latencies, answered, sizeof *latencies, by_size);
    printf("{\"answers\": %zu, \"ok\": %zu, \"refused\": %zu, \"failed\": %zu, \"broken\": %zu, \"seconds\": %.6f, "
           "\"p50_us\": %u, \"p90_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"cpu_s\": %.6f, \"next_number\": %llu}\n",
           answered, by_class[2], by_class[4], by_class[5] + by_class[1] + by_class[3] + by_class[0], broken,
           atof(argv[4]), share(0.5), share(0.9), share(0.99), share(1.0), used, (unsigned long long)number);
    return 0;
}
