/* See writes.h. Source: pthreads(7), pwrite(2), eventfd(2). */
#include "writes.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define STACK (128 * 1024)

struct list {
    struct write_job *first, **last;
};

struct writes {
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t given;
    struct list queue, ended;
    pthread_t *threads;
    int most, begun, busy; /* `busy`: jobs given and not ended */
    int bell, tell, closing;
};

static void empty(struct list *of) {
    of->first = NULL;
    of->last = &of->first;
}

static void append(struct list *to, struct write_job *job) {
    job->next = NULL;
    *to->last = job;
    to->last = &job->next;
}

static int write_parts(const struct write_job *job) {
    for (int i = 0; i < job->count; i++) {
        const struct write_part *part = &job->parts[i];
        for (size_t done = 0; done < part->length;) {
            ssize_t wrote = pwrite(job->fd, part->data + done, part->length - done, (off_t)(part->at + (int64_t)done));
            if (wrote > 0) done += (size_t)wrote;
            else if (wrote == 0) return EIO; /* a file takes at least one byte or says why not */
            else if (errno != EINTR) return errno;
        }
    }
    return 0;
}

static void ring(int bell) {
    uint64_t one = 1;
    while (write(bell, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void *serve(void *argument) {
    struct writes *all = argument;
    pthread_mutex_lock(&all->lock);
    for (;;) {
        while (all->queue.first == NULL && !all->closing) pthread_cond_wait(&all->given, &all->lock);
        struct write_job *job = all->queue.first;
        if (job == NULL) break;
        all->queue.first = job->next;
        if (job->next == NULL) empty(&all->queue);
        pthread_mutex_unlock(&all->lock);

        job->error = write_parts(job);

        pthread_mutex_lock(&all->lock);
        all->busy--;
        append(&all->ended, job);
        if (all->tell) {
            all->tell = 0;
            pthread_mutex_unlock(&all->lock);
            ring(all->bell);
            pthread_mutex_lock(&all->lock);
        }
    }
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

/* One more thread. Signals are the interpreter's, and none is to come here. */
static int begin(struct writes *all) {
    sigset_t every, before;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    error = pthread_attr_setstacksize(&attributes, STACK);
    if (!error) {
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        error = pthread_create(&all->threads[all->begun], &attributes, serve, all);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    if (!error) all->begun++;
    return error;
}

struct writes *writes_new(int most, int bell) {
    struct writes *all = calloc(1, sizeof *all);
    if (all == NULL) return NULL;
    all->threads = calloc((size_t)most, sizeof *all->threads);
    int error = all->threads == NULL ? ENOMEM : pthread_mutex_init(&all->lock, NULL);
    if (!error && (error = pthread_cond_init(&all->given, NULL))) pthread_mutex_destroy(&all->lock);
    if (error) {
        free(all->threads);
        free(all);
        errno = error;
        return NULL;
    }
    all->most = most;
    all->bell = bell;
    empty(&all->queue);
    empty(&all->ended);
    return all;
}

int writes_give(struct writes *all, struct write_job *job) {
    int error = 0;
    pthread_mutex_lock(&all->lock);
    if (all->busy >= all->begun && all->begun < all->most) error = begin(all);
    if (all->begun) { /* without another thread those that there are do what is to be done */
        error = 0;
        all->busy++;
        append(&all->queue, job);
        pthread_cond_signal(&all->given);
    }
    pthread_mutex_unlock(&all->lock);
    return error;
}

struct write_job *writes_ended(struct writes *all, int tell) {
    pthread_mutex_lock(&all->lock);
    struct write_job *first = all->ended.first;
    empty(&all->ended);
    all->tell = first == NULL && tell;
    pthread_mutex_unlock(&all->lock);
    return first;
}

struct write_job *writes_free(struct writes *all) {
    pthread_mutex_lock(&all->lock);
    all->closing = 1;
    pthread_cond_broadcast(&all->given);
    pthread_mutex_unlock(&all->lock);
    for (int i = 0; i < all->begun; i++) pthread_join(all->threads[i], NULL);
    struct write_job *first = all->ended.first;
    pthread_cond_destroy(&all->given);
    pthread_mutex_destroy(&all->lock);
    free(all->threads);
    free(all);
    return first;
}
