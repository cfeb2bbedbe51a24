/* Port to a hosted C library: stdin, stdout and stderr. */
#include "cg_port.h"

#include <stdio.h>
#include <stdlib.h>

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

_Noreturn void cg_port_exit(int code) {
    exit(code);
}
