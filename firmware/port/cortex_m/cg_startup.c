/* Vector table and reset for every Cortex-M. Nothing here needs a vendor header. */
#include "cg_fault.h"
#include "cg_port.h"

#include <stdint.h>
#include <string.h>

extern uint32_t cg_stack_limit[], cg_stack_top[], cg_data_load[], cg_data_start[], cg_data_end[],
    cg_bss_start[], cg_bss_end[], cg_code_load[], cg_code_start[], cg_code_end[];

/* Stays in flash where the rest of the code runs from RAM. */
#define BEFORE_COPY __attribute__((section(".text.before_copy"), noinline))

int main(void);
_Noreturn void cg_reset(void);

#define CPACR (*(volatile uint32_t *)0xe000ed88)
#define CPACR_CP10_CP11_FULL (UINT32_C(0xf) << 20)
#define CCR (*(volatile uint32_t *)0xe000ed14)
#define CCR_UNALIGN_TRP (UINT32_C(1) << 3)
#define SHCSR (*(volatile uint32_t *)0xe000ed24)
#define SHCSR_FAULTS (UINT32_C(0xf) << 16) /* memory, bus, usage; secure on v8-M */

typedef void (*handler)(void);

typedef struct {
    uint32_t *stack;
    handler exceptions[15];
} vectors;

/* No interrupt but SysTick is ever enabled, so the table ends with the system exceptions. */
__attribute__((section(".vectors"), used)) static const vectors table = {
    cg_stack_top,
    {cg_reset, cg_fault_nmi, cg_fault_hard, cg_fault_memory, cg_fault_bus, cg_fault_usage,
     cg_fault_secure, cg_fault_other, cg_fault_other, cg_fault_other, cg_fault_other,
     cg_fault_other, cg_fault_other, cg_fault_other, cg_systick},
};

/* Stack words that nobody has written keep this value. */
#define PAINT UINT32_C(0xc6a7e5a1)

BEFORE_COPY static void paint_stack(void) {
    const uint32_t *const here = __builtin_frame_address(0);
    /* Volatile, or this would become a call of memset, whose frame lies in what is painted. */
    for (volatile uint32_t *word = cg_stack_limit; word < here - 16; word++) {
        *word = PAINT;
    }
}

/* Volatile here too: memcpy may be among what is copied. Code that runs from flash stays there. */
BEFORE_COPY static void copy(uint32_t *to, const uint32_t *end, const uint32_t *from) {
    if (to == from) {
        return;
    }
    for (volatile uint32_t *word = to; word < end; word++) {
        *word = *from++;
    }
    __asm volatile("dsb\n\tisb" ::: "memory");
}

static uint32_t stack_peak(void) {
    const uint32_t *word = cg_stack_limit;
    while (word < cg_stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((const char *)cg_stack_top - (const char *)word);
}

BEFORE_COPY _Noreturn void cg_reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= CPACR_CP10_CP11_FULL;
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
#if __ARM_ARCH >= 8
    __asm volatile("msr msplim, %0" ::"r"(cg_stack_limit));
#endif
#if defined(__ARM_ARCH_6M__)
    /* Always set on v6-M; not so on the larger core that an emulator has in its place. */
    CCR |= CCR_UNALIGN_TRP;
#else
    /* Without this every fault would arrive as a HardFault. */
    SHCSR |= SHCSR_FAULTS;
#endif
    paint_stack();
    copy(cg_code_start, cg_code_end, cg_code_load);
    copy(cg_data_start, cg_data_end, cg_data_load);
    memset(cg_bss_start, 0, (size_t)((char *)cg_bss_end - (char *)cg_bss_start));
    const int code = main();
    cg_put_value("cgate stack: ", stack_peak());
    cg_port_text("\n");
    cg_port_exit(code);
}
