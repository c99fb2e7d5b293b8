#ifndef GODWIT_CEPOLL_H
#define GODWIT_CEPOLL_H

#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

// What Glibc's Swift overlay lacks. _GNU_SOURCE stays in the .c file: in this header it would bring a second fd_set.

/// accept4 with SOCK_NONBLOCK | SOCK_CLOEXEC; the peer's address is written to `address` when it is not NULL.
int godwit_accept(int listener, struct sockaddr_storage *address, socklen_t *length);

/// An eventfd, nonblocking, closed on exec; -1 with errno on failure.
int godwit_eventfd(void);

/// A timer on the monotonic clock, nonblocking, closed on exec; readable when it has fired. -1 with errno on failure.
int godwit_timerfd(void);

/// It fires at this instant of the monotonic clock, in nanoseconds, and not at one that was set before.
void godwit_timerfd_set(int timer, uint64_t nanoseconds);

/// One epoll_event without the overlay's union: `data` is given and returned as 64 bits.
int godwit_epoll_ctl(int epoll, int operation, int descriptor, uint32_t events, uint64_t data);

/// recv and send, EINTR and all, without what they cost as cancellation points in a process with several threads: two
/// locked instructions each. Nobody cancels a thread of ours.
ssize_t godwit_receive(int socket, void *bytes, size_t count);
ssize_t godwit_send(int socket, const void *bytes, size_t count);

/// A descriptor, closed on exec, that is readable once this child has ended; -1 with errno on failure. Linux 5.3.
int godwit_pidfd(int process);

/// Names the calling thread, cut at 15 bytes, for top and gdb.
void godwit_name_thread(const char *name);

/// Descriptors that one message may carry.
#define GODWIT_DESCRIPTORS_MAX 64

/// One message on a Unix socket, and copies of descriptors with it; -1 with errno on failure.
ssize_t godwit_send_descriptors(int socket, const void *bytes, size_t length, const int *descriptors, size_t count);

/// One message, and in `descriptors` (room for GODWIT_DESCRIPTORS_MAX) what came with it, closed on exec.
ssize_t godwit_receive_descriptors(int socket, void *bytes, size_t length, int *descriptors, size_t *count);

/// The system's user at the other end of a Unix socket, and its process; UINT32_MAX: not known.
uint32_t godwit_peer_user(int socket, int *process);

static inline uint64_t godwit_epoll_data(const struct epoll_event *event) { return event->data.u64; }
static inline uint32_t godwit_epoll_events(const struct epoll_event *event) { return event->events; }

#endif
