/* DWT's cycle counter, where the core has one. QEMU's has none: all of its DWT reads as zero. */
#include "cg_port.h"

#define DEMCR (*(volatile uint32_t *)0xe000edfc)
#define DWT_CTRL (*(volatile uint32_t *)0xe0001000)
#define DWT_CYCCNT (*(volatile uint32_t *)0xe0001004)
#define DWT_LAR (*(volatile uint32_t *)0xe0001fb0)

#define DEMCR_TRACE_ON (UINT32_C(1) << 24)
#define CTRL_COUNT UINT32_C(1)
#define LAR_UNLOCK UINT32_C(0xc5acce55)

#if defined(__ARM_ARCH_6M__)
int cg_port_cycles(uint32_t *cycles) {
    (void)cycles;
    return 0;
}
#else
int cg_port_cycles(uint32_t *cycles) {
    if ((DWT_CTRL & CTRL_COUNT) == 0) {
        DEMCR |= DEMCR_TRACE_ON;
        /* Cortex-M7 ignores writes to DWT until this; other cores have no lock and ignore it. */
        DWT_LAR = LAR_UNLOCK;
        DWT_CTRL |= CTRL_COUNT;
        if ((DWT_CTRL & CTRL_COUNT) == 0) {
            return 0;
        }
    }
    *cycles = DWT_CYCCNT;
    return 1;
}
#endif
