/* SysTick, which every Cortex-M and QEMU have, extended by its interrupt. */
#include "cg_time.h"
#include "cg_fault.h"

#define SYST_CSR (*(volatile uint32_t *)0xe000e010)
#define SYST_RVR (*(volatile uint32_t *)0xe000e014)
#define SYST_CVR (*(volatile uint32_t *)0xe000e018)
#define ICSR (*(volatile uint32_t *)0xe000ed04)

#define SYST_MAX UINT32_C(0xffffff)
#define CSR_CORE_CLOCK_INTERRUPT_ON UINT32_C(7)
#define ICSR_SYSTICK_PENDING (UINT32_C(1) << 26)

static uint32_t hz;
static volatile uint32_t wraps;

/* In the place of the handler that cg_fault.c has for programs without a clock. */
void cg_systick(void) {
    wraps++;
}

void cg_time_open(uint32_t core_hz) {
    hz = core_hz;
    SYST_RVR = SYST_MAX;
    SYST_CVR = 0;
    SYST_CSR = CSR_CORE_CLOCK_INTERRUPT_ON;
}

uint64_t cg_time_us(void) {
    uint32_t before, left;
    do {
        before = wraps;
        left = SYST_CVR;
        /* A wrap between the two reads belongs to neither. */
    } while (before != wraps || (ICSR & ICSR_SYSTICK_PENDING) != 0);
    const uint64_t ticks = ((uint64_t)before << 24) + (SYST_MAX - left);
    return ticks / hz * 1000000 + ticks % hz * 1000000 / hz;
}
