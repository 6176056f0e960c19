/* CRC-32 as zlib counts it (ISO 3309, polynomial 0xEDB88320 reflected), by the CPU's carry-less multiplication.
 *
 * There is no portable path here: where the CPU has no such instruction the caller has zlib. Nothing here allocates,
 * keeps state, or knows Python. */
#ifndef WHARFAGE_CRC32_H
#define WHARFAGE_CRC32_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t (*crc32_fn)(uint32_t crc, const uint8_t *data, size_t length);

/* Goes on from `crc`, the CRC-32 of what came before (0 of nothing). NULL where the CPU cannot. */
crc32_fn crc32_accelerated(void);

#endif
