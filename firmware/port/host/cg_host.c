/* Port to a hosted C library: stdin, stdout and stderr. */
#include "cg_port.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void cg_port_open(void) {
    /* Nothing: POSIX streams are binary. */
}

size_t cg_port_read(void *data, size_t size) {
    /* The peer may be waiting for what is still buffered. */
    if (fflush(stdout) != 0) {
        exit(EXIT_FAILURE);
    }
    return fread(data, 1, size, stdin);
}

void cg_port_write(const void *data, size_t size) {
    if (fwrite(data, 1, size, stdout) != size) {
        exit(EXIT_FAILURE);
    }
}

void cg_port_text(const char *text) {
    fputs(text, stderr);
}

int cg_port_cycles(uint32_t *cycles) {
    (void)cycles; /* this computer's cycles say nothing about a microcontroller's */
    return 0;
}

uint32_t cg_port_micros(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint32_t)((uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
}

void cg_port_edge(void) {
    cg_port_text("cgate edge\n");
}

_Noreturn void cg_port_exit(int code) {
    exit(code);
}
