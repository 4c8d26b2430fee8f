/* Linked into what is built under the thread sanitizer, which thinks of one descriptor table a
 * process. The engine's thread has its own (close_range(2), CLOSE_RANGE_UNSHARE), so its number 7
 * and the server's have nothing in common. */
const char *__tsan_default_suppressions(void); /* NOLINT(bugprone-reserved-identifier) */

const char *__tsan_default_suppressions(void) { /* NOLINT(bugprone-reserved-identifier) */
    return "race:interceptor_accept4\n"
           "race:interceptor_bind\n"
           "race:interceptor_close\n"
           "race:interceptor_connect\n"
           "race:interceptor_dup\n"
           "race:interceptor_epoll_\n"
           "race:interceptor_eventfd\n"
           "race:interceptor_fclose\n"
           "race:interceptor_fdopendir\n"
           "race:interceptor_fopen\n"
           "race:interceptor_listen\n"
           "race:interceptor_open\n"
           "race:interceptor_opendir\n"
           "race:interceptor_closedir\n"
           "race:interceptor_pipe\n"
           "race:interceptor_poll\n"
           "race:interceptor_read\n"
           "race:interceptor_recv\n"
           "race:interceptor_send\n"
           "race:interceptor_socket\n"
           "race:interceptor_write\n"
           "race:^close$\n"
           "race:^epoll_\n";
}
