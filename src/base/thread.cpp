#include "base/thread.h"

#include <cerrno>
#include <csignal>
#include <memory>
#include <new>
#include <pthread.h>

namespace synergy {

namespace {

/// Plenty for the engine and for a resolver; the default, 8 MiB, would be locked into memory by
/// mlockall(2).
constexpr std::size_t stack_size = 512UL * 1024;

struct Start {
    std::string name;
    std::function<void()> work;
};

void *thread_main(void *argument) {
    const std::unique_ptr<Start> start(static_cast<Start *>(argument));
    pthread_setname_np(pthread_self(), start->name.c_str());
    start->work();
    return nullptr;
}

} // namespace

int start_thread(const std::string &name, std::function<void()> work) {
    std::unique_ptr<Start> start(new (std::nothrow) Start{name, std::move(work)});
    if (!start)
        return ENOMEM;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    const int error = pthread_create(&thread, &attributes, thread_main, start.get());
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (error == 0)
        static_cast<void>(start.release()); // the thread's now
    return error;
}

} // namespace synergy
