/*
 * A small fuzzer for where libFuzzer is not: it mutates the corpus and keeps what reaches new code,
 * as GCC's -fsanitize-coverage=trace-pc reports it.
 *
 *     program RUNS SEED FILE...
 *
 * Like libFuzzer it leaves the input that broke the program in a file, here ./crash.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST = 1024, INPUTS = 4096, SLOTS = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_cov_trace_pc(void);

static struct {
    size_t size;
    uint8_t bytes[LARGEST];
} corpus[INPUTS], trial;
static size_t inputs;
static uint64_t state;
static uint8_t reached[SLOTS];
static unsigned fresh;

/* Compiled without instrumentation, like this whole file. */
void __sanitizer_cov_trace_pc(void) {
    const uintptr_t place = (uintptr_t)__builtin_return_address(0);
    uint8_t *slot = &reached[place % SLOTS];
    fresh += *slot == 0;
    *slot = 1;
}

static size_t below(size_t limit) {
    /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % limit);
}

static void mutate(void) {
    static const uint8_t telling[] = {0,   1,   2,   3,   59,  60,  61,  62,  127,
                                      128, 255, 'C', 'G', 'R', 'V', 'T', 'I', 'Q'};
    for (size_t changes = 1 + below(4); changes > 0; changes--) {
        const size_t at = trial.size == 0 ? 0 : below(trial.size);
        const size_t rest = trial.size - at, room = LARGEST - trial.size;
        size_t part = 1 + below(16);
        switch (below(6)) {
        case 0:
            trial.bytes[at] = telling[below(sizeof telling)];
            break;
        case 1:
            trial.bytes[at] ^= (uint8_t)(1u << below(8));
            break;
        case 2: /* cut out */
            part = part < rest ? part : rest;
            memmove(trial.bytes + at, trial.bytes + at + part, rest - part);
            trial.size -= part;
            break;
        case 3: /* make room for random bytes */
            part = part < room ? part : room;
            memmove(trial.bytes + at + part, trial.bytes + at, rest);
            for (size_t i = 0; i < part; i++) {
                trial.bytes[at + i] = (uint8_t)below(256);
            }
            trial.size += part;
            break;
        case 4: /* shorten */
            trial.size = at;
            break;
        default: { /* append another input */
            const size_t other = below(inputs);
            part = corpus[other].size < room ? corpus[other].size : room;
            memcpy(trial.bytes + trial.size, corpus[other].bytes, part);
            trial.size += part;
        }
        }
    }
}

/* The input is on disk while it runs, so that it is there if the program does not come back. */
static void attempt(void) {
    FILE *file = fopen("crash", "wb");
    if (file == NULL || fwrite(trial.bytes, 1, trial.size, file) != trial.size) {
        exit(EXIT_FAILURE);
    }
    fclose(file);
    fresh = 0;
    LLVMFuzzerTestOneInput(trial.bytes, trial.size);
    if (fresh > 0 && inputs < INPUTS) {
        corpus[inputs++] = trial;
    }
}

int main(int count, char **words) {
    if (count < 3) {
        return EXIT_FAILURE;
    }
    state = strtoull(words[2], NULL, 10) * 2 + 1;
    for (int i = 3; i < count; i++) {
        FILE *file = fopen(words[i], "rb");
        if (file == NULL) {
            return EXIT_FAILURE;
        }
        trial.size = fread(trial.bytes, 1, LARGEST, file);
        fclose(file);
        attempt();
    }
    trial.size = 0;
    attempt();
    if (inputs == 0) {
        corpus[inputs++] = trial; /* something to begin with */
    }
    for (long runs = strtol(words[1], NULL, 10); runs > 0; runs--) {
        trial = corpus[below(inputs)];
        mutate();
        attempt();
    }
    remove("crash");
    printf("%zu inputs reach new code\n", inputs);
    return 0;
}
