/* The loops of the LTTng-UST peer. Its tracepoints are macros of C. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "tracepoints.h"

void compare_lttng_instants(uint64_t n)
{
    uint64_t mask = 0x3f;
    /* As black_box does. */
    __asm__ volatile("" : "+r"(mask));
    for (uint64_t i = 0; i < n; i++)
        lttng_ust_tracepoint(compare, instant, i & mask);
}

void compare_lttng_spans(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        lttng_ust_tracepoint(compare, span_begin);
        lttng_ust_tracepoint(compare, span_end);
    }
}
