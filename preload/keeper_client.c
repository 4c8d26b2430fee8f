#include "keeper_client.h"

#include "aside.h"
#include "exchange.h"
#include "filters.h"
#include "keeper_start.h"
#include "libc_calls.h"
#include "process.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int ask_who_has_port(int transport, uint16_t port, struct synergy_request *request, int pass,
                     struct synergy_answer *answer) {
    struct synergy_address address = {0};
    synergy_port_name(transport, port, &address);
    return ask_keeper_at(&address, geteuid(), request, pass, answer, NULL);
}

/* A connection to the page's keeper, and the secret for it; -1 and errno. */
static int connect_to_keeper(const struct synergy_page *page, struct synergy_request *request) {
    struct owner owner;
    int connection = connect_to(&page->keeper, KEEPERS_OWN, &owner);
    if (connection < 0)
        return -1;
    /* The name may be another's by now, who must not learn the secret. (From another process
     * namespace the keeper has another number, or none.) */
    if (owner.process == page->keeper.process || owner.user == page->user ||
        (owner.process == 0 && owner.user == geteuid())) {
        request->secret = page->secret;
        return connection;
    }
    kernel(SYS_close, connection);
    errno = ECONNREFUSED;
    return -1;
}

/* Whether the keeper is at work: what is passed along to one that is stopped would stay open, and
 * its port taken, for as long as that is. 0 or an errno. */
static int knock(int connection, struct synergy_request *request) {
    struct synergy_answer answer;
    uint32_t kind = request->kind;
    request->kind = SYNERGY_KNOCK;
    int error = send_request(connection, request, -1);
    request->kind = kind;
    return error == 0 ? receive_answer(connection, &answer, NULL) : error;
}

/* Without `answer` none is awaited. Without `kept` the connection does not stay. */
static int exchange(const struct synergy_page *page, struct synergy_request *request, int pass,
                    struct synergy_answer *answer, int *kept) {
    int connection = connect_to_keeper(page, request);
    if (connection < 0)
        return errno;
    int error = pass >= 0 ? knock(connection, request) : 0;
    if (error == 0)
        error = send_request(connection, request, pass);
    if (error == 0 && answer)
        error = receive_answer(connection, answer, NULL);
    if (error == 0 && kept)
        *kept = connection;
    else
        kernel(SYS_close, connection);
    return error;
}

/* How long accept() waits for what a bell stands for. The keeper was at work a moment ago, or the
 * bell would not have rung, and an event loop waits with it: so this is short. One that rings again
 * after that was late, and is waited for longer. In milliseconds. */
enum { FIRST_PATIENCE = 300, LAST_PATIENCE = 2000, BY_NAME = KEEPERS };
static uint32_t waited_in_vain[KEEPERS + 1];

static unsigned patience_with(int keeper) {
    unsigned longer = 2 * __atomic_load_n(&waited_in_vain[keeper], __ATOMIC_RELAXED);
    return longer > LAST_PATIENCE || !may_hang_up() ? LAST_PATIENCE
           : longer < FIRST_PATIENCE                ? FIRST_PATIENCE
                                                    : longer;
}

static void note_patience(int keeper, unsigned patience, int error) {
    __atomic_store_n(&waited_in_vain[keeper], error == ETIMEDOUT ? patience : 0, __ATOMIC_RELAXED);
}

/* What comes late would be lost: so nothing can come, from the moment on in which it is not waited
 * for any longer. (What was there before is received all the same.) */
static int fetch_by(int connection, unsigned patience, struct synergy_request *request, int *bell,
                    struct synergy_answer *answer, int *received) {
    wait_for_answer(connection, patience);
    int error = send_request(connection, request, *bell);
    if (error == 0)
        error = receive_fetched(connection, bell, answer, received);
    if (error == ETIMEDOUT && may_hang_up()) {
        kernel(SYS_shutdown, connection, SHUT_RDWR);
        error = receive_fetched(connection, bell, answer, received);
        error = error == EPIPE ? ETIMEDOUT : error;
    }
    return error;
}

static int fetch(const struct synergy_page *page, unsigned patience,
                 struct synergy_request *request, int *bell, struct synergy_answer *answer,
                 int *received) {
    int connection = connect_to_keeper(page, request);
    if (connection < 0)
        return errno;
    int error = fetch_by(connection, patience, request, bell, answer, received);
    kernel(SYS_close, connection);
    return error;
}

int fetch_from(const struct synergy_address *name, uid_t owner, struct synergy_request *request,
               int *bell, struct synergy_answer *answer, int *received) {
    struct owner found;
    *received = -1;
    int connection = connect_to(name, PERHAPS_STRANGERS, &found);
    if (connection < 0)
        return errno;
    unsigned patience = patience_with(BY_NAME);
    int error = is_trusted(&found, owner)
                    ? fetch_by(connection, patience, request, bell, answer, received)
                    : ECONNREFUSED;
    note_patience(BY_NAME, patience, error);
    kernel(SYS_close, connection);
    return error;
}

/* What it means depends on the page: a keeper that lives says so too to who comes from another
 * network namespace, or when it has no descriptor left. `asked`: the process that it was. */
static int is_gone(const struct synergy_page *page, int32_t asked, int error) {
    int tells_of_its_end = __atomic_load_n(&page->holder, __ATOMIC_ACQUIRE) != 0;
    return (error == ECONNREFUSED || error == ECONNRESET || error == EPIPE) &&
           (!tells_of_its_end || synergy_is_over(page) || page->keeper.process != asked);
}

/* A keeper that did not answer is left alone for a while, or until it rings another bell: one that
 * was stopped must not hold up each call of the server's. In seconds of CLOCK_MONOTONIC. One that
 * was not waited for long is left alone by accept(), and asked by others. */
enum { REST = 10 };
static struct rest {
    uint32_t until, rung; /* how many bells had rung before */
} from_asking[KEEPERS], from_fetching[KEEPERS];

static uint32_t bells_rung(int keeper) {
    return __atomic_load_n(&keeper_page(keeper)->rung, __ATOMIC_ACQUIRE);
}

static int rests(const struct rest *rest, int keeper) {
    return seconds_now() < __atomic_load_n(&rest->until, __ATOMIC_RELAXED) &&
           bells_rung(keeper) == __atomic_load_n(&rest->rung, __ATOMIC_RELAXED);
}

/* The error, as it was. */
static int noted(struct rest *rest, int keeper, int error) {
    if (error == ETIMEDOUT) {
        __atomic_store_n(&rest->rung, bells_rung(keeper), __ATOMIC_RELAXED);
        __atomic_store_n(&rest->until, seconds_now() + REST, __ATOMIC_RELAXED);
    }
    return error;
}

static int exchange_unless_resting(int keeper, struct synergy_request *request, int pass,
                                   struct synergy_answer *answer, int *kept) {
    if (rests(&from_asking[keeper], keeper))
        return ETIMEDOUT;
    note_stderr();
    return noted(&from_asking[keeper], keeper,
                 exchange(keeper_page(keeper), request, pass, answer, kept));
}

static int ask(int keeper, struct synergy_request *request, int pass, struct synergy_answer *answer,
               int *kept) {
    int opens = request->kind == SYNERGY_OPEN || request->kind == SYNERGY_OPEN_TOWARD ||
                request->kind == SYNERGY_PREPARE;
    struct synergy_page *page = keeper_page(keeper);
    int32_t asked = page->keeper.process;
    int error = exchange_unless_resting(keeper, request, pass, answer, kept);
    if (is_gone(page, asked, error)) {
        replace_keeper(keeper);
        if (opens)
            error = exchange(page, request, pass, answer, kept);
    }
    if (opens && error == ECONNREFUSED && !is_in_network(page->network)) {
        COMPLAIN_ONCE("this process is in another network namespace than its socket", 0);
        return error;
    }
    /* What else could not be asked the keeper finds out by itself, or rings again. */
    if (opens && error != 0) {
        COMPLAIN_ONCE("synergy-keeper can't be asked", error);
    }
    return error;
}

int ask_keeper(int keeper, struct synergy_request *request, int pass,
               struct synergy_answer *answer) {
    return ask(keeper, request, pass, answer, NULL);
}

int ask_keeper_first(int keeper, struct synergy_request *request, int pass,
                     struct synergy_answer *answer, int *connection) {
    *connection = -1;
    return ask(keeper, request, pass, answer, connection);
}

int tell_keeper(int keeper, int connection, struct synergy_request *request) {
    request->secret = keeper_page(keeper)->secret;
    int error = send_request(connection, request, -1);
    kernel(SYS_close, connection);
    return error;
}

struct fetching {
    const struct synergy_page *page;
    unsigned patience;
    struct synergy_request *request;
    int *bell;
    struct synergy_answer *answer;
    int *received;
    int error;
};

static void fetch_aside(void *argument) {
    struct fetching *fetching = argument;
    fetching->error = fetch(fetching->page, fetching->patience, fetching->request, fetching->bell,
                            fetching->answer, fetching->received);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is what fetch_aside() changes */
int fetch_from_keeper(int keeper, struct synergy_request *request, int *bell,
                      struct synergy_answer *answer, int *received) {
    struct fetching fetching = {.page = keeper_page(keeper),
                                .patience = patience_with(keeper),
                                .request = request,
                                .bell = bell,
                                .answer = answer,
                                .received = received};
    int32_t asked = fetching.page->keeper.process;
    *received = -1;
    if (rests(&from_asking[keeper], keeper) || rests(&from_fetching[keeper], keeper))
        return ETIMEDOUT;
    fetch_aside(&fetching);
    /* The bell has taken the last number. */
    if (fetching.error == EMFILE && may_begin() && starting_begin()) {
        run_beyond_limit(fetch_aside, &fetching);
        starting_end();
    }
    if (is_gone(fetching.page, asked, fetching.error))
        replace_keeper(keeper);
    note_patience(keeper, fetching.patience, fetching.error);
    return noted(&from_fetching[keeper], keeper, fetching.error);
}

void keepers_hear_of(pid_t child) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++) {
        struct synergy_request request = {.kind = SYNERGY_HERE, .process = child};
        if (!synergy_is_over(keeper_page(i)))
            exchange_unless_resting(i, &request, -1, NULL, NULL);
    }
}
