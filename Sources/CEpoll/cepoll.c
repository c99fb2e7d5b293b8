#define _GNU_SOURCE
#include "cepoll.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

int godwit_accept(int listener, struct sockaddr_storage *address, socklen_t *length) {
    return accept4(listener, (struct sockaddr *)address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

int godwit_eventfd(void) {
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

int godwit_timerfd(void) {
    return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
}

void godwit_timerfd_set(int timer, uint64_t nanoseconds) {
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(nanoseconds / 1000000000u),
                                           .tv_nsec = (long)(nanoseconds % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

ssize_t godwit_receive(int socket, void *bytes, size_t count) {
    return syscall(SYS_recvfrom, socket, bytes, count, 0, NULL, NULL);
}

ssize_t godwit_send(int socket, const void *bytes, size_t count) {
    return syscall(SYS_sendto, socket, bytes, count, MSG_NOSIGNAL, NULL, 0);
}

int godwit_epoll_ctl(int epoll, int operation, int descriptor, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data = {.u64 = data}};
    return epoll_ctl(epoll, operation, descriptor, &event);
}

void godwit_name_thread(const char *name) {
    char cut[16] = {0};
    strncpy(cut, name, sizeof cut - 1);
    pthread_setname_np(pthread_self(), cut);
}

int godwit_pidfd(int process) {
    return (int)syscall(SYS_pidfd_open, process, 0);
}

ssize_t godwit_send_descriptors(int socket, const void *bytes, size_t length, const int *descriptors, size_t count) {
    if (count > GODWIT_DESCRIPTORS_MAX) {
        errno = EINVAL;
        return -1;
    }
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int) * GODWIT_DESCRIPTORS_MAX)];
    } control = {0};
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

ssize_t godwit_receive_descriptors(int socket, void *bytes, size_t length, int *descriptors, size_t *count) {
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int) * GODWIT_DESCRIPTORS_MAX)];
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *count = 0;
    ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) return received;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t held = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        const unsigned char *data = CMSG_DATA(header);
        for (size_t index = 0; index < held; index++) {
            int descriptor;
            memcpy(&descriptor, data + index * sizeof(int), sizeof descriptor);
            if (*count < GODWIT_DESCRIPTORS_MAX) descriptors[(*count)++] = descriptor;
            else close(descriptor);
        }
    }
    return received;
}

uint32_t godwit_peer_user(int socket, int *process) {
    struct ucred peer = {.pid = 0, .uid = UINT32_MAX};
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) peer.uid = UINT32_MAX;
    if (process) *process = peer.pid;
    return peer.uid;
}
