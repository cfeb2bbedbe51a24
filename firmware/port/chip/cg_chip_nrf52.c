/* nRF52840 at its 64 MHz; registers from the product specification, v1.7. */
#include "cg_chip.h"

#define CLOCK_TASKS_HFCLKSTART CG_REG(0x40000000)
#define CLOCK_EVENTS_HFCLKSTARTED CG_REG(0x40000100)
#define POWER_DCDCEN CG_REG(0x40000578)
#define NVMC_ICACHECNF CG_REG(0x4001e540)
#define GPIO_BASE(pin) (0x50000000u + (pin) / 32 * 0x300)
#define GPIO_OUTSET(pin) CG_REG(GPIO_BASE(pin) + 0x508)
#define GPIO_OUTCLR(pin) CG_REG(GPIO_BASE(pin) + 0x50c)
#define GPIO_PIN_CNF(pin) CG_REG(GPIO_BASE(pin) + 0x700 + (pin) % 32 * 4)
#define UART_PSELTXD CG_REG(CG_UART_BASE + 0x50c)
#define UART_PSELRXD CG_REG(CG_UART_BASE + 0x514)

enum { PIN_OUTPUT = 3, PIN_INPUT_PULL_UP = 0xc };

static void output(uint32_t pin) {
    GPIO_OUTSET(pin) = UINT32_C(1) << pin % 32;
    GPIO_PIN_CNF(pin) = PIN_OUTPUT;
}

cg_clocks cg_chip_open(void) {
    /* The core always runs at 64 MHz; the crystal only makes it exact. */
    CLOCK_TASKS_HFCLKSTART = 1;
    cg_chip_wait(&CLOCK_EVENTS_HFCLKSTARTED, 1, 1);
    POWER_DCDCEN = 1; /* the kit has the inductor */
    NVMC_ICACHECNF = 1;
    output(CG_PIN_PULSE);
    output(CG_PIN_TX);
    GPIO_PIN_CNF(CG_PIN_RX) = PIN_INPUT_PULL_UP; /* an open line must not look like requests */
    UART_PSELTXD = CG_PIN_TX;
    UART_PSELRXD = CG_PIN_RX;
    return (cg_clocks){CG_CLOCK_HZ, CG_CLOCK_HZ};
}

void cg_chip_pulse(int high) {
    if (high) {
        GPIO_OUTSET(CG_PIN_PULSE) = UINT32_C(1) << CG_PIN_PULSE % 32;
    } else {
        GPIO_OUTCLR(CG_PIN_PULSE) = UINT32_C(1) << CG_PIN_PULSE % 32;
    }
}
