/* Writes to files by threads of their own, which know nothing of Python and so never wait for its lock.
 *
 *     writes_give ─► queue ─► thread: pwrite each part, in order ─► ended ─► writes_ended
 *                                                                     └─ one write to the eventfd, when it was asked for
 *
 * A job and what its parts point to belong to the queue from `writes_give` on until `writes_ended` has returned it. */
#ifndef WHARFAGE_WRITES_H
#define WHARFAGE_WRITES_H

#include <stddef.h>
#include <stdint.h>

#define WRITE_PARTS 4

struct write_part {
    const uint8_t *data;
    size_t length;
    int64_t at;
};

struct write_job {
    struct write_job *next;
    int fd;
    int count; /* of its parts */
    struct write_part parts[WRITE_PARTS];
    int error; /* 0, or the errno of the part that failed; those after it were not begun */
};

struct writes;

/* Up to `most` threads, begun as they are needed, which tell the eventfd `bell`. NULL with errno. */
struct writes *writes_new(int most, int bell);

/* 0, or the errno for which not even one thread could be begun: then the job was not taken. */
int writes_give(struct writes *all, struct write_job *job);

/* The jobs that have ended since it was asked last, or NULL: then, with `tell`, the next one to end rings the bell. */
struct write_job *writes_ended(struct writes *all, int tell);

/* Waits for all that was given. The jobs that had ended, as `writes_ended` returns them. */
struct write_job *writes_free(struct writes *all);

#endif
