/* SHA-256 and SHA-512 (FIPS 180-4) over whole blocks: the compression functions and nothing else.
 *
 * Padding, buffering and the exported state live in native.pyx. `blocks` is the one choice: made once, at run time, from
 * what the CPU says it has. Nothing here allocates, keeps state, or knows Python. */
#ifndef WHARFAGE_SHA2_H
#define WHARFAGE_SHA2_H

#include <stddef.h>
#include <stdint.h>

typedef void (*sha256_blocks_fn)(uint32_t state[8], const uint8_t *data, size_t blocks);

void sha256_blocks_portable(uint32_t state[8], const uint8_t *data, size_t blocks); /* 64 bytes a block */
void sha512_blocks_portable(uint64_t state[8], const uint8_t *data, size_t blocks); /* 128 bytes a block */

/* As many blocks of two messages at once, with the CPU's own instructions. */
typedef void (*sha256_two_fn)(uint32_t one[8], const uint8_t *of_one, uint32_t two[8], const uint8_t *of_two,
                              size_t blocks);

/* The CPU's own SHA-256 instructions (x86 SHA-NI, ARMv8 SHA2), or NULL where it has none. */
sha256_blocks_fn sha256_blocks_accelerated(void);
sha256_two_fn sha256_two_accelerated(void); /* NULL where it has none, or nobody wrote it */
const char *sha256_accelerated_name(void);

#endif
