/*
 * Speaks the protocol of MLPerf Tiny's runner (mlcommons/tiny, benchmark/runner), so that it can
 * drive any network. The build gives the macros that apps/stream explains, and
 *
 *     CG_APP_DECAY   round(2^31 * exp(-scale of the logits)), for the probabilities
 *     CG_APP_ENERGY  defined: edges on the power pin instead of times
 *
 * A command ends with '%'. Whatever is no command is answered by one line "e-[...]"; every answer
 * ends with "m-ready".
 */
#include "cg_port.h"
#include "cgate.h"

#include CG_APP_HEADER

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

enum { COMMAND_SIZE = 80, DEFAULT_WARMUP = 10, MAX_COUNT = 1000000, PRINT_BYTES = 8 };

static alignas(CG_ARENA_ALIGN) uint8_t arena[CG_APP_ARENA];
static alignas(CG_ARENA_ALIGN) int8_t input[CG_APP_INPUT];
static int8_t logits[CG_APP_OUTPUT];
static uint8_t buffer[CG_APP_INPUT]; /* pixels, as `db` brings them */
static uint32_t loaded;              /* bytes of `buffer` */
static int loading;                  /* `db load` was given */
static int have_results;

static void put(const char *text) {
    cg_port_write(text, strlen(text));
}

static void put_number(uint32_t value) {
    char digits[10];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    cg_port_write(digits + first, sizeof digits - first);
}

static void put_tagged(const char *before, uint32_t value, const char *after) {
    put(before);
    put_number(value);
    put(after);
}

static void timestamp(void) {
#ifdef CG_APP_ENERGY
    cg_port_edge();
#else
    put_tagged("m-lap-us-", cg_port_micros(), "\r\n");
#endif
}

/* (CG_APP_DECAY / 2^31) ^ steps, times 2^31 */
static uint32_t decay(uint32_t steps) {
    uint64_t result = UINT64_C(1) << 31, factor = CG_APP_DECAY;
    for (; steps != 0; steps >>= 1) {
        if (steps & 1) {
            result = (result * factor) >> 31;
        }
        factor = (factor * factor) >> 31;
    }
    return (uint32_t)result;
}

/* Softmax of the logits to three decimals; its arithmetic has no floating point either. */
static void results(void) {
    int8_t best = INT8_MIN;
    uint64_t sum = 0;
    if (!have_results) {
        put("e-[No results yet]\r\n");
        return;
    }
    for (size_t i = 0; i < CG_APP_OUTPUT; i++) {
        best = logits[i] > best ? logits[i] : best;
    }
    for (size_t i = 0; i < CG_APP_OUTPUT; i++) {
        sum += decay((uint32_t)(best - logits[i]));
    }
    put("m-results-[");
    for (size_t i = 0; i < CG_APP_OUTPUT; i++) {
        const uint64_t share = decay((uint32_t)(best - logits[i])) * UINT64_C(1000) + sum / 2;
        const uint32_t thousandths = (uint32_t)(share / sum);
        put(i == 0 ? "" : ",");
        put_number(thousandths / 1000);
        put(".");
        put_number(thousandths / 100 % 10);
        put_number(thousandths / 10 % 10);
        put_number(thousandths % 10);
    }
    put("]\r\n");
}

/* Returns 0 after having said why. */
static int infer_times(uint32_t count) {
    for (; count != 0; count--) {
        const cg_status status = CG_APP_MODEL.run(input, logits, arena, NULL);
        if (status != CG_OK) {
            put_tagged("e-[Inference failed with status ", (uint32_t)status, "]\r\n");
            return 0;
        }
    }
    return 1;
}

static void infer(uint32_t count, uint32_t warmup) {
    if (loaded != CG_APP_INPUT) {
        put("e-[No input is loaded]\r\n");
        return;
    }
    for (size_t i = 0; i < CG_APP_INPUT; i++) {
        input[i] = (int8_t)(buffer[i] - 128);
    }
    have_results = 0;
    put_tagged("m-warmup-start-", warmup, "\r\n");
    if (!infer_times(warmup)) {
        return;
    }
    put("m-warmup-done\r\n");
    put_tagged("m-infer-start-", count, "\r\n");
    timestamp();
    if (!infer_times(count)) {
        return;
    }
    timestamp();
    put("m-infer-done\r\n");
    have_results = 1;
    results();
}

/* The next word of a command, or NULL. Ends it in place. */
static char *next_word(char **rest) {
    char *word = *rest;
    while (*word == ' ') {
        word++;
    }
    if (*word == '\0') {
        *rest = word;
        return NULL;
    }
    char *end = word;
    while (*end != ' ' && *end != '\0') {
        end++;
    }
    *rest = *end == '\0' ? end : end + 1;
    *end = '\0';
    return word;
}

/* A decimal number up to MAX_COUNT; returns 0 if it is none. */
static int parse_number(const char *word, uint32_t *value) {
    *value = 0;
    for (const char *digit = word; *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9') {
            return 0;
        }
        *value = *value * 10 + (uint32_t)(*digit - '0');
        if (*value > MAX_COUNT) {
            return 0;
        }
    }
    return *word != '\0';
}

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    const char lower = (char)(digit | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static void db_load(char *rest) {
    const char *word = next_word(&rest);
    uint32_t size;
    loading = 0;
    loaded = 0;
    if (word == NULL || !parse_number(word, &size) || next_word(&rest) != NULL) {
        put("e-[Command 'db load' requires the # of bytes]\r\n");
    } else if (size != CG_APP_INPUT) {
        put_tagged("e-[The input has ", CG_APP_INPUT, " bytes]\r\n");
    } else {
        loading = 1;
        put_tagged("m-[Expecting ", size, " bytes]\r\n");
    }
}

static void db_print(void) {
    static const char digits[] = "0123456789abcdef";
    for (uint32_t i = 0; i < loaded; i++) {
        const char text[2] = {digits[buffer[i] >> 4], digits[buffer[i] & 15]};
        put(i % PRINT_BYTES == 0 ? "m-buffer-" : "-");
        cg_port_write(text, sizeof text);
        if (i % PRINT_BYTES == PRINT_BYTES - 1 || i == loaded - 1) {
            put("\r\n");
        }
    }
}

/* Bytes as hexadecimal digits: all of them are taken, or none. */
static void db_bytes(const char *word) {
    const uint32_t digits = (uint32_t)strlen(word);
    if (!loading) {
        put("e-[No 'db load' before]\r\n");
        return;
    }
    if (digits % 2 != 0) {
        put("e-[Insufficent number of hex digits]\r\n");
        return;
    }
    if (digits / 2 > CG_APP_INPUT - loaded) {
        put("e-[More bytes than 'db load' said]\r\n");
        return;
    }
    for (uint32_t i = 0; i < digits; i++) {
        if (hex_digit(word[i]) < 0) {
            put("e-[Invalid hex digit]\r\n");
            return;
        }
    }
    for (uint32_t i = 0; i < digits; i += 2) {
        buffer[loaded++] = (uint8_t)(hex_digit(word[i]) * 16 + hex_digit(word[i + 1]));
    }
    if (loaded == CG_APP_INPUT) {
        loading = 0;
        put("m-load-done\r\n");
    }
}

static void run_db(char *rest) {
    const char *word = next_word(&rest);
    if (word == NULL) {
        put("e-[Command 'db' requires a subcommand]\r\n");
    } else if (strcmp(word, "load") == 0) {
        db_load(rest);
    } else if (strcmp(word, "print") == 0) {
        db_print();
    } else if (next_word(&rest) != NULL) {
        put("e-[Too many words]\r\n");
    } else {
        db_bytes(word);
    }
}

static void run_infer(char *rest) {
    const char *count_word = next_word(&rest);
    const char *warmup_word = next_word(&rest);
    uint32_t count = 1, warmup = DEFAULT_WARMUP;
    if (count_word != NULL && (!parse_number(count_word, &count) || count == 0)) {
        put("e-[Inference iterations must be >0]\r\n");
    } else if (warmup_word != NULL && !parse_number(warmup_word, &warmup)) {
        put("e-[Inference warmup must be >=0]\r\n");
    } else if (next_word(&rest) != NULL) {
        put("e-[Too many words]\r\n");
    } else {
        infer(count, warmup);
    }
}

static const char firmware_version[] = "ULPMark for tinyML Firmware V0.0.1";

static void profile(void) {
    put("m-profile-[");
    put(firmware_version);
    put("]\r\nm-model-[");
    /* The runner picks its script by this; a network for CIFAR-10 stands for image classification.
     */
    put(CG_APP_INPUT == 32 * 32 * 3 && CG_APP_OUTPUT == 10 ? "ic01" : CG_APP_MODEL.name);
    put("]\r\n");
}

static void help(void) {
    put(firmware_version);
    put("\r\n\r\n"
        "help              this text\r\n"
        "name              name of the device\r\n"
        "profile           name of the model\r\n"
        "timestamp         a time, or an edge on the power pin\r\n"
        "db load N         expect N bytes of input\r\n"
        "db HH[HH]*        the bytes, in hexadecimal\r\n"
        "db print          the bytes that were loaded\r\n"
        "infer [N=1 [W=10]]  W inferences to warm up, then N between two timestamps\r\n"
        "results           what the last inference gave\r\n");
}

static void run_command(char *text) {
    char *rest = text;
    const char *word = next_word(&rest);
    if (word == NULL) {
        put("e-[Empty command]\r\n");
    } else if (strcmp(word, "name") == 0) {
        put("m-name-dut-[cgate]\r\n");
    } else if (strcmp(word, "timestamp") == 0) {
        timestamp();
    } else if (strcmp(word, "profile") == 0) {
        profile();
    } else if (strcmp(word, "help") == 0) {
        help();
    } else if (strcmp(word, "db") == 0) {
        run_db(rest);
    } else if (strcmp(word, "infer") == 0) {
        run_infer(rest);
    } else if (strcmp(word, "results") == 0) {
        results();
    } else {
        put("e-[Unknown command: ");
        put(word);
        put("]\r\n");
    }
}

enum { TOO_LONG = 1, NOT_TEXT = 2 };

/* Reads up to the next '%'. Returns -1 when the input has ended, else 0 or what is wrong. */
static int read_command(char text[COMMAND_SIZE + 1]) {
    size_t length = 0;
    int wrong = 0;
    char byte;
    for (;;) {
        if (cg_port_read(&byte, 1) != 1) {
            return -1;
        }
        if (byte == '%') {
            text[length] = '\0';
            return wrong;
        }
        if (byte == '\r' || byte == '\n') {
            continue; /* a person at a terminal */
        }
        if (byte < ' ' || byte > '~') {
            wrong = NOT_TEXT;
        } else if (length == COMMAND_SIZE) {
            wrong = wrong == 0 ? TOO_LONG : wrong;
        } else {
            text[length++] = byte;
        }
    }
}

int main(void) {
    char text[COMMAND_SIZE + 1];
    cg_port_open();
#ifdef CG_APP_ENERGY
    put("m-timestamp-mode-energy\r\n");
#else
    put("m-timestamp-mode-performance\r\n");
#endif
    timestamp();
    put("m-init-done\r\nm-ready\r\n");
    for (;;) {
        switch (read_command(text)) {
        case 0:
            run_command(text);
            break;
        case TOO_LONG:
            put("e-[Command too long]\r\n");
            break;
        case NOT_TEXT:
            put("e-[Invalid character]\r\n");
            break;
        default:
            return 0;
        }
        put("m-ready\r\n");
    }
}
