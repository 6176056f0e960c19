/* See together.h. */
#define _GNU_SOURCE /* RUSAGE_THREAD */
#include "together.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

#include "sha2.h"

#if defined(__linux__)

/* For how many ns the other one is waited for, how many after it was seen at most, and after how many misses waits become
 * no rarer (each 2^n-th time). Where threads have cores to themselves a wait is time lost, and the other one comes at once
 * or not at all; where they are driven off them somebody else has the core meanwhile, and the other one is waiting too. */
struct manner {
    int64_t patience, around;
    unsigned most_misses;
};
static const struct manner AT_EASE = {1000000, 2000000, 6}, CROWDED = {5000000, 20000000, 3};
#define CROWDED_LASTS 50000000 /* ns since a thread was last seen driven off its core */

enum state { WAITS, TAKEN, HASHED };

struct half {
    uint32_t *words;
    const uint8_t *data;
    size_t blocks, hashed;
    enum state state;
    pthread_cond_t told;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_condattr_t monotonic;
static sha256_blocks_fn alone;
static sha256_two_fn together; /* NULL where it does not pay */
static double gain;

/* Of all that follows. Never held while anything is hashed. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static struct half *waiting;
static pthread_t last; /* who came here last, with what and when */
static const uint32_t *last_words;
static int64_t last_at;
static int64_t other_at; /* when another thread than the one that came last was here with another message */
static unsigned misses;  /* in a row */
static unsigned to_skip; /* times that nobody is waited for */
static uint64_t meetings;
static int always;
static int64_t patience = -1; /* set by tests */
static int64_t crowded_at = -CROWDED_LASTS;
static _Thread_local long driven_off;

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void measure(void) {
    static uint8_t zeros[16384];
    const size_t blocks = sizeof(zeros) / 64;
    sha256_two_fn two = sha256_two_accelerated();
    int64_t best_alone = INT64_MAX, best_together = INT64_MAX;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    alone = sha256_blocks_accelerated();
    if (!two) return;
    for (int i = 0; i < 8; i++) {
        uint32_t one[8] = {0}, other[8] = {1};
        int64_t begun = now(CLOCK_THREAD_CPUTIME_ID), between, ended;
        alone(one, zeros, blocks);
        alone(other, zeros, blocks);
        between = now(CLOCK_THREAD_CPUTIME_ID);
        two(one, zeros, other, zeros, blocks);
        ended = now(CLOCK_THREAD_CPUTIME_ID);
        if (between - begun < best_alone) best_alone = between - begun;
        if (ended - between < best_together) best_together = ended - between;
    }
    gain = best_together > 0 ? (double)best_alone / (double)best_together : 0;
    if (gain >= TOGETHER_PAYS) together = two;
}

double sha256_gain(void) {
    pthread_once(&once, measure);
    return gain;
}

uint64_t sha256_meetings(void) {
    uint64_t found;
    pthread_mutex_lock(&gate);
    found = meetings;
    pthread_mutex_unlock(&gate);
    return found;
}

int sha256_is_crowded(void) {
    int found;
    pthread_mutex_lock(&gate);
    found = now(CLOCK_MONOTONIC) - crowded_at < CROWDED_LASTS;
    pthread_mutex_unlock(&gate);
    return found;
}

void sha256_set_waiting(int is_always, int64_t wait) {
    pthread_once(&once, measure);
    pthread_mutex_lock(&gate);
    always = is_always;
    patience = wait;
    together = is_always || gain >= TOGETHER_PAYS ? sha256_two_accelerated() : NULL;
    misses = to_skip = 0;
    pthread_mutex_unlock(&gate);
}

/* Look whether this thread lost its core since it was last here: then cores are short. With the gate. */
static const struct manner *manner_at(int64_t at) {
    struct rusage used;
    if (!getrusage(RUSAGE_THREAD, &used) && used.ru_nivcsw != driven_off) {
        driven_off = used.ru_nivcsw;
        crowded_at = at;
    }
    return at - crowded_at < CROWDED_LASTS ? &CROWDED : &AT_EASE;
}

/* How long to wait for somebody else who may come soon, and what a miss then means. NULL: not. With the gate. */
static const struct manner *is_worth_waiting(const uint32_t *words) {
    int64_t at = now(CLOCK_MONOTONIC);
    pthread_t self = pthread_self();
    const struct manner *manner = manner_at(at);
    if (!pthread_equal(last, self) && words != last_words) other_at = last_at;
    last = self, last_words = words, last_at = at;
    if (always) return manner;
    if (to_skip) {
        to_skip--;
        return NULL;
    }
    return at - other_at < manner->around ? manner : NULL;
}

/* Wait until another thread has hashed these blocks, or for as long as it pays; how many it hashed. With the gate. */
static size_t wait_for_other(struct half *half, const struct manner *manner) {
    int64_t until = now(CLOCK_MONOTONIC) + (patience < 0 ? manner->patience : patience);
    struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    int failed = pthread_cond_init(&half->told, &monotonic);
    if (failed) return 0;
    waiting = half;
    while (half->state == WAITS && !failed) failed = pthread_cond_timedwait(&half->told, &gate, &t);
    while (half->state == TAKEN) pthread_cond_wait(&half->told, &gate); /* it hashes: that ends */
    if (half->state == WAITS) {
        waiting = NULL;
        misses = misses < manner->most_misses ? misses + 1 : manner->most_misses;
        to_skip = 1u << misses;
    }
    pthread_cond_destroy(&half->told);
    return half->hashed;
}

void sha256_together(uint32_t state[8], const uint8_t *data, size_t blocks) {
    size_t hashed = 0;
    pthread_once(&once, measure);
    pthread_mutex_lock(&gate);
    sha256_two_fn two = together;
    if (two) {
        const struct manner *manner = is_worth_waiting(state);
        struct half *other = waiting;
        if (other) {
            waiting = NULL;
            other->state = TAKEN;
            pthread_mutex_unlock(&gate);
            hashed = blocks < other->blocks ? blocks : other->blocks;
            two(state, data, other->words, other->data, hashed);
            pthread_mutex_lock(&gate);
            other->hashed = hashed;
            other->state = HASHED;
            pthread_cond_signal(&other->told);
            misses = to_skip = 0;
            meetings++;
        } else if (manner) {
            struct half half = {.words = state, .data = data, .blocks = blocks, .state = WAITS};
            hashed = wait_for_other(&half, manner);
        }
    }
    pthread_mutex_unlock(&gate);
    if (hashed < blocks) alone(state, data + 64 * hashed, blocks - hashed);
}

#else /* no clock for conditions but that of the day, which may be set back */

double sha256_gain(void) { return 0; }
uint64_t sha256_meetings(void) { return 0; }
int sha256_is_crowded(void) { return 0; }
void sha256_set_waiting(int always, int64_t wait) { (void)always, (void)wait; }
void sha256_together(uint32_t state[8], const uint8_t *data, size_t blocks) {
    sha256_blocks_accelerated()(state, data, blocks);
}

#endif
