/* A flood of strangers at the doors of a rank: threads that connect, say a hello that somebody has overheard and a wrong proof,
 * and connect again.  Many connections of each thread are under way at a time.
 *
 * flood THREADS SECONDS unix NAME HELLO | tcp PORT HELLO: NAME is of an abstract socket, HELLO 128 hexadecimal digits.
 * Prints how many connections were made. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 64, SAID = 96 };

static union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_un un; } door;
static socklen_t door_length;
static unsigned char said[SAID];
static double over;
static atomic_long made;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void *strangers(void *unused)
{
    int open[OPEN], next = 0;
    memset(open, -1, sizeof open);
    while (now() < over) {
        if (open[next] >= 0)
            close(open[next]);
        int sock = open[next] = socket(door.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        next = (next + 1) % OPEN;
        if (sock < 0)
            continue;
        int error = connect(sock, &door.any, door_length);
        if (error && errno == EINPROGRESS) { /* what is sent now is refused until the connection is there */
            for (int tries = 0; tries < 3 && (error = send(sock, said, SAID, MSG_NOSIGNAL) != SAID); tries++)
                ;
        } else if (!error)
            error = send(sock, said, SAID, MSG_NOSIGNAL) != SAID;
        if (!error)
            atomic_fetch_add(&made, 1);
    }
    for (next = 0; next < OPEN; next++)
        if (open[next] >= 0)
            close(open[next]);
    return unused;
}

int main(int count, char **words)
{
    if (count != 6)
        return 2;
    int threads = atoi(words[1]), unix_socket = !strcmp(words[3], "unix");
    const char *hello = words[5];
    if (unix_socket) {
        door.un.sun_family = AF_UNIX;
        strncpy(door.un.sun_path + 1, words[4], sizeof door.un.sun_path - 2);
        door_length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(words[4]);
    } else {
        door.in.sin_family = AF_INET;
        door.in.sin_port = htons(atoi(words[4]));
        door.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        door_length = sizeof door.in;
    }
    for (size_t byte = 0; byte < SAID && sscanf(hello + 2 * byte, "%2hhx", &said[byte]) == 1; byte++)
        ;
    over = now() + atof(words[2]);
    pthread_t all[threads];
    for (int each = 0; each < threads; each++)
        pthread_create(&all[each], NULL, strangers, NULL);
    for (int each = 0; each < threads; each++)
        pthread_join(all[each], NULL);
    printf("%ld\n", atomic_load(&made));
    return 0;
}
