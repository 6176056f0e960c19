/* SHA-256 of two messages at once, by whichever two threads hash at the same time.
 *
 *     thread A ── sha256_together ── waits ─────────────── its blocks are hashed ── goes on
 *     thread B ─────────── sha256_together ── hashes A's and its own, side by side ── goes on
 *
 * One stream leaves half of the CPU's SHA unit idle, as each step waits for the one before (1.8 times the bytes by two on
 * a Zen 4, 1.27 on an Intel Xeon: docs/decisions/performance.md). A thread waits only where another one has hashed a moment ago,
 * and less often each time that nobody came; so a stream that is alone never waits. Longer, and more often, where threads
 * lose their cores to others: `struct manner` of together.c. */
#ifndef WHARFAGE_TOGETHER_H
#define WHARFAGE_TOGETHER_H

#include <stddef.h>
#include <stdint.h>

/* How much faster two go together than one after the other: measured at the first call, for half a millisecond. 0 where
 * this CPU has no such instructions. Below TOGETHER_PAYS, `sha256_together` hashes alone. */
double sha256_gain(void);
#define TOGETHER_PAYS 1.4

/* Hash these whole blocks, alone or together. Only where there is `sha256_blocks_accelerated`. Waits with no lock held,
 * but for a mutex of its own that is never held while it hashes. */
void sha256_together(uint32_t state[8], const uint8_t *data, size_t blocks);

/* How often two have met, since the process began. Whether a thread that hashes lost its core a moment ago. And, for
 * tests, whether and how long (ns) to wait for each other: `always` without looking whether anybody is around; `wait` < 0:
 * as it is by itself. */
uint64_t sha256_meetings(void);
int sha256_is_crowded(void);
void sha256_set_waiting(int always, int64_t wait);

#endif
