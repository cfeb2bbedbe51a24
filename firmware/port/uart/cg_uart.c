/* Port to a serial line. It never ends, and messages share it with the replies. */
#include "cg_uart.h"
#include "cg_port.h"

void cg_port_open(void) {
    cg_uart_open();
    /* Whoever started this program may send from now on. */
    cg_port_text("cgate ready\n");
}

size_t cg_port_read(void *data, size_t size) {
    uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = cg_uart_get();
    }
    return size;
}

void cg_port_write(const void *data, size_t size) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        cg_uart_put(bytes[i]);
    }
}

void cg_port_text(const char *text) {
    while (*text != '\0') {
        cg_uart_put((uint8_t)*text++);
    }
}

_Noreturn void cg_port_exit(int code) {
    (void)code;
    for (;;) {
        __asm volatile("wfi");
    }
}
