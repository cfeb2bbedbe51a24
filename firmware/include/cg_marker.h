/*
 * Markers around units, for counting instructions in an emulator (SPEC.md, section 10).
 * Two HINT.W instructions, or four short hints on v6-M: NOPs on silicon, nothing on the host.
 */
#ifndef CG_MARKER_H
#define CG_MARKER_H

#define CG_MARK_INFERENCE 255

#if defined(__thumb2__)
#define CG_MARK_(low, id)                                                                          \
    __asm volatile(".inst.w 0xf3af8080 + %c0 / 32\n\t.inst.w 0xf3af8000 + " #low " + %c0 %% 32"    \
                   :                                                                               \
                   : "i"(id)                                                                       \
                   : "memory")
#define CG_MARK_BEGIN(id) CG_MARK_(0xa0, id)
#define CG_MARK_END(id) CG_MARK_(0xc0, id)
#elif defined(__thumb__)
#define CG_MARK_(kind, id)                                                                         \
    __asm volatile(".inst.n " #kind "\n\t.inst.n 0xbf70 + (%c0 / 64) * 16\n\t"                     \
                   ".inst.n 0xbf70 + (%c0 / 8 %% 8) * 16\n\t.inst.n 0xbf70 + (%c0 %% 8) * 16"      \
                   :                                                                               \
                   : "i"(id)                                                                       \
                   : "memory")
#define CG_MARK_BEGIN(id) CG_MARK_(0xbf50, id)
#define CG_MARK_END(id) CG_MARK_(0xbf60, id)
#else
#define CG_MARK_BEGIN(id) ((void)0)
#define CG_MARK_END(id) ((void)0)
#endif

#endif
