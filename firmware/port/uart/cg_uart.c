/* Port to a serial line. It never ends, and messages share it with the replies. */
#include "cg_uart.h"
#include "cg_chip.h"
#include "cg_port.h"
#include "cg_time.h"

enum { EDGE_US = 10 };

void cg_port_open(void) {
    const cg_clocks clocks = cg_chip_open();
    cg_uart_open(clocks.uart_hz, CG_UART_BAUD);
    cg_time_open(clocks.core_hz);
}

uint32_t cg_port_micros(void) {
    return (uint32_t)cg_time_us();
}

void cg_port_edge(void) {
    cg_chip_pulse(0);
    const uint32_t start = cg_port_micros();
    while (cg_port_micros() - start < EDGE_US) {
    }
    cg_chip_pulse(1);
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
