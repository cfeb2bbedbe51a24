/* The stream application as a function, for the fuzzers. */
int app_main(void);
#define main app_main
#include "../../firmware/apps/stream/main.c"
